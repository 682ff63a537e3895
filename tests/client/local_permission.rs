//! Who may not open a segment, and who must not trust it, goes by TCP. Other users take root to be
//! tried.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use dsm_client::DataPath;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use support::other_user::{self, OTHER_USER};
use support::{Cluster, local_client};

const K: u64 = 1 << 20;

/// What the other user's `dsmctl ping` says of the way to the server, with these arguments of
/// setpriv(1) for the groups.
fn path_of_other_user(cluster: &Cluster, groups: &str) -> String {
    let (_folder, mut command) = other_user::command(env!("CARGO_BIN_EXE_dsmctl"), cluster, groups);
    let output = command.args(["--json", "ping"]).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    rows[0]["path"].as_str().unwrap().to_owned()
}

/// Gives these files to a user and a group.
fn give(files: &[PathBuf], user: u32, group: u32, mode: u32) {
    for path in files {
        chown(path, Some(user), Some(group)).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
}

#[test]
fn a_user_who_may_not_open_the_segment_goes_by_tcp_and_one_of_its_group_does_not() {
    if !other_user::is_possible() {
        return;
    }
    let cluster = Cluster::builder().k(K).local().start();
    assert_eq!(path_of_other_user(&cluster, "--clear-groups"), "tcp");
    let group = nix::unistd::getegid();
    assert_eq!(
        path_of_other_user(&cluster, &format!("--groups={group}")),
        "local"
    );
}

#[test]
fn a_segment_that_another_user_may_have_laid_out_is_not_used() {
    if !other_user::is_possible() {
        return;
    }
    let cluster = Cluster::start(1, K);
    let path = || local_client(&cluster).data_path(0).unwrap();
    assert_eq!(path(), DataPath::Local);
    let own = nix::unistd::getegid().as_raw();
    // The last is as dsmd makes it, by a user who shares a group with this process.
    for (group, mode) in [
        (own, 0o666),
        (own, 0o664),
        (OTHER_USER, 0o660),
        (own, 0o660),
    ] {
        give(&cluster.leftovers(), OTHER_USER, group, mode);
        assert_eq!(path(), DataPath::Tcp, "group {group}, mode {mode:o}");
    }
}

#[test]
fn a_segment_of_a_user_who_shares_a_group_with_the_caller_is_not_used() {
    if !other_user::is_possible() {
        return;
    }
    let cluster = Cluster::builder().k(K).local().start();
    let shared = 65532;
    let groups = format!("--groups={shared}");
    // Of another member of the group, as dsmd would make it; of the caller; of root.
    for (owner, expected) in [(OTHER_USER - 2, "tcp"), (OTHER_USER, "local"), (0, "local")] {
        give(&cluster.leftovers(), owner, shared, 0o660);
        assert_eq!(
            path_of_other_user(&cluster, &groups),
            expected,
            "owner {owner}"
        );
    }
}

#[test]
fn a_segment_with_a_semaphore_or_a_copy_area_of_another_user_is_not_used() {
    if !other_user::is_possible() {
        return;
    }
    let cluster = Cluster::start(1, K);
    let own = nix::unistd::getegid().as_raw();
    let path = || local_client(&cluster).data_path(0).unwrap();
    for name in [
        format!("sem.{}.0.03", cluster.name()),
        format!("{}.0.copies", cluster.name()),
    ] {
        let file = [PathBuf::from("/dev/shm").join(&name)];
        give(&file, OTHER_USER, own, 0o666);
        assert_eq!(
            path(),
            DataPath::Tcp,
            "{name} could be cut short while this process uses it"
        );
        give(&file, nix::unistd::geteuid().as_raw(), own, 0o660);
        assert_eq!(path(), DataPath::Local, "{name}");
    }
}

#[test]
fn a_snapshot_agent_opens_no_segment_that_everybody_may_open() {
    if !other_user::is_possible() {
        return;
    }
    let cluster = Cluster::start(1, K);
    let attached = || {
        dsm_core::segment::Segment::attach(cluster.layout(), 0)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let own = nix::unistd::getegid().as_raw();
    give(&cluster.leftovers(), OTHER_USER, own, 0o666);
    let error = attached().unwrap_err();
    assert!(
        error.contains(&format!("/dev/shm/{}.0 belongs to", cluster.name())),
        "{error}"
    );
    // In the user namespace of its unit it knows the memory by the group that may open it.
    give(&cluster.leftovers(), OTHER_USER, own, 0o660);
    attached().unwrap();
}

#[test]
fn a_user_outside_the_group_is_told_which_group_may_read_the_snapshots_and_open_the_memory() {
    if !other_user::is_possible() {
        return;
    }
    let cluster = Cluster::start(1, K);
    // Where the other user can see that there is a folder, and no more.
    let directory = cluster.snapshot_directory();
    std::fs::set_permissions(cluster.directory(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o750)).unwrap();
    let (_folder, mut list) =
        other_user::command(env!("CARGO_BIN_EXE_dsmctl"), &cluster, "--clear-groups");
    let output = list.args(["snapshot", "list"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(
        said.contains("become a member of its group") && !said.contains("run this there"),
        "{said}"
    );

    let (_folder, mut agent) = other_user::command(
        env!("CARGO_BIN_EXE_dsm-snapshot"),
        &cluster,
        "--clear-groups",
    );
    let agent = agent
        .args(["agent", "--index", "0"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut agent = Killed(agent);
    let is_up = || std::net::TcpStream::connect(cluster.agent_address(0)).is_ok();
    support::wait_for(
        "the other user's agent listens",
        support::wire::PATIENCE,
        || {
            assert!(
                agent.0.try_wait().unwrap().is_none(),
                "the other user's agent has ended"
            );
            is_up()
        },
    );
    let run = cluster.create_snapshot(&[]);
    let group = format!("(gid {})", nix::unistd::getegid());
    run.fails(
        69,
        &[
            "can be opened by user",
            "the members of",
            &group,
            &format!("(uid {OTHER_USER})"),
        ],
    );
}

/// A process that is killed at the end.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
