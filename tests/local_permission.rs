//! Who may not open a segment, and who must not trust it, goes by TCP. Other users take root to be tried.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

mod support;

use dsm::client::DataPath;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use support::stranger::{self, STRANGER};
use support::{Cluster, local_client};

const K: u64 = 1 << 20;

/// What the stranger's `dsmctl ping` says of the way to the server, with these arguments of setpriv(1) for his groups.
fn path_of_stranger(cluster: &Cluster, groups: &str) -> String {
    let (_folder, mut command) = stranger::command(env!("CARGO_BIN_EXE_dsmctl"), cluster, groups);
    let output = command.args(["--json", "ping"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    rows[0]["path"].as_str().unwrap().to_owned()
}

/// Makes these files somebody's.
fn give(files: &[PathBuf], user: u32, group: u32, mode: u32) {
    for path in files {
        chown(path, Some(user), Some(group)).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
}

#[test]
fn a_user_who_may_not_open_the_segment_goes_by_tcp_and_one_of_its_group_does_not() {
    if !stranger::is_possible() {
        return;
    }
    let cluster = Cluster::builder().k(K).local().start();
    assert_eq!(path_of_stranger(&cluster, "--clear-groups"), "tcp");
    let group = nix::unistd::getegid();
    assert_eq!(path_of_stranger(&cluster, &format!("--groups={group}")), "local");
}

#[test]
fn a_segment_that_a_stranger_may_have_laid_out_is_not_used() {
    if !stranger::is_possible() {
        return;
    }
    let cluster = Cluster::start(1, K);
    let path = || local_client(&cluster).data_path(0).unwrap();
    assert_eq!(path(), DataPath::Local);
    let own = nix::unistd::getegid().as_raw();
    // The last is as dsmd makes it, by somebody who shares a group with this process.
    for (group, mode) in [(own, 0o666), (own, 0o664), (STRANGER, 0o660), (own, 0o660)] {
        give(&cluster.leftovers(), STRANGER, group, mode);
        assert_eq!(path(), DataPath::Tcp, "group {group}, mode {mode:o}");
    }
}

#[test]
fn a_segment_of_a_user_who_shares_a_group_with_the_caller_is_not_used() {
    if !stranger::is_possible() {
        return;
    }
    let cluster = Cluster::builder().k(K).local().start();
    let shared = 65532;
    let groups = format!("--groups={shared}");
    // Of another member of the group, as dsmd would make it; of the caller; of root.
    for (owner, expected) in [(STRANGER - 2, "tcp"), (STRANGER, "local"), (0, "local")] {
        give(&cluster.leftovers(), owner, shared, 0o660);
        assert_eq!(path_of_stranger(&cluster, &groups), expected, "owner {owner}");
    }
}

#[test]
fn a_segment_with_a_semaphore_or_a_copy_area_of_another_user_is_not_used() {
    if !stranger::is_possible() {
        return;
    }
    let cluster = Cluster::start(1, K);
    let own = nix::unistd::getegid().as_raw();
    let path = || local_client(&cluster).data_path(0).unwrap();
    for name in [format!("sem.{}.0.03", cluster.name()), format!("{}.0.copies", cluster.name())] {
        let file = [PathBuf::from("/dev/shm").join(&name)];
        give(&file, STRANGER, own, 0o666);
        assert_eq!(path(), DataPath::Tcp, "{name} could be cut short while this process uses it");
        give(&file, nix::unistd::geteuid().as_raw(), own, 0o660);
        assert_eq!(path(), DataPath::Local, "{name}");
    }
}

#[test]
fn a_snapshot_agent_opens_no_segment_that_everybody_may_open() {
    if !stranger::is_possible() {
        return;
    }
    let cluster = Cluster::start(1, K);
    let attached = || dsm::segment::Segment::attach(cluster.layout(), 0).map(drop).map_err(|error| error.to_string());
    let own = nix::unistd::getegid().as_raw();
    give(&cluster.leftovers(), STRANGER, own, 0o666);
    let error = attached().unwrap_err();
    assert!(error.contains(&format!("/dev/shm/{}.0 belongs to", cluster.name())), "{error}");
    // In the user namespace of its unit it knows the memory by the group that may open it.
    give(&cluster.leftovers(), STRANGER, own, 0o660);
    attached().unwrap();
}
