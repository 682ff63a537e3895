//! A client that may not open a segment, or must not trust it, uses TCP. The tests need root, to
//! run programs as other users.

// The lint exempts #[test] functions, not the helpers that they call.
#![allow(clippy::unwrap_used)]

use dsm_client::DataPath;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use support::other_user::{self, OTHER_USER};
use support::{Cluster, local_client};

const K: u64 = 1 << 20;

/// The data path that the other user's `dsmctl ping` reports, with `groups` as the arguments of
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

/// Changes the owner, the group and the mode of these files.
fn change_owner(files: &[PathBuf], user: u32, group: u32, mode: u32) {
    for path in files {
        chown(path, Some(user), Some(group)).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
}

#[test]
fn a_user_who_may_not_open_the_segment_uses_tcp_and_a_member_of_its_group_does_not() {
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
fn a_segment_that_another_user_can_have_made_is_not_used() {
    if !other_user::is_possible() {
        return;
    }
    let cluster = Cluster::start(1, K);
    let path = || local_client(&cluster).data_path(0).unwrap();
    assert_eq!(path(), DataPath::Local);
    let own = nix::unistd::getegid().as_raw();
    // The last one is what dsmd makes for a user who shares a group with this process.
    for (group, mode) in [
        (own, 0o666),
        (own, 0o664),
        (OTHER_USER, 0o660),
        (own, 0o660),
    ] {
        change_owner(&cluster.leftovers(), OTHER_USER, group, mode);
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
    // Owners: another member of the group, as with a dsmd of that user; the caller; root.
    for (owner, expected) in [(OTHER_USER - 2, "tcp"), (OTHER_USER, "local"), (0, "local")] {
        change_owner(&cluster.leftovers(), owner, shared, 0o660);
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
        change_owner(&file, OTHER_USER, own, 0o666);
        assert_eq!(
            path(),
            DataPath::Tcp,
            "{name} could be cut short while this process uses it"
        );
        change_owner(&file, nix::unistd::geteuid().as_raw(), own, 0o660);
        assert_eq!(path(), DataPath::Local, "{name}");
    }
}

#[test]
fn a_snapshot_agent_opens_no_segment_that_every_user_may_open() {
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
    change_owner(&cluster.leftovers(), OTHER_USER, own, 0o666);
    let error = attached().unwrap_err();
    assert!(
        error.contains(&format!("/dev/shm/{}.0 belongs to", cluster.name())),
        "{error}"
    );
    // In the user namespace of its unit, the agent recognizes the memory by its group.
    change_owner(&cluster.leftovers(), OTHER_USER, own, 0o660);
    attached().unwrap();
}

#[test]
fn an_error_names_the_group_that_may_read_the_snapshots_and_open_the_memory() {
    if !other_user::is_possible() {
        return;
    }
    let cluster = Cluster::start(1, K);
    // The other user can see that the folder exists, but not its contents.
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
    let mut agent = KilledOnDrop(agent);
    let is_up = || std::net::TcpStream::connect(cluster.agent_address(0)).is_ok();
    support::wait_for(
        "the other user's agent to listen",
        support::wire::TEST_TIMEOUT,
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

/// A process that is killed when this is dropped.
struct KilledOnDrop(std::process::Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
