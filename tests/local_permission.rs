//! Who may not open a segment, and who must not trust it, goes by TCP. Other users take root to be tried.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

mod support;

use dsm::client::DataPath;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;
use support::{Cluster, local_client};

const K: u64 = 1 << 20;

/// A user that has nothing here.
const STRANGER: u32 = 65533;

/// Whether users can be tried here. If not, that is printed.
fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        println!("SKIPPED: only root can be somebody else");
    }
    is_root
}

/// What the stranger's `dsmctl ping` says of the way to the server, with these arguments of setpriv(1) for his groups.
fn path_of_stranger(cluster: &Cluster, groups: &str) -> String {
    // The folder of a test is its user's only, and so may be the one with the programs.
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let (dsmctl, config): (PathBuf, PathBuf) = (folder.path().join("dsmctl"), folder.path().join("mcomp.cfg"));
    std::fs::copy(env!("CARGO_BIN_EXE_dsmctl"), &dsmctl).unwrap();
    std::fs::copy(cluster.config_path(), &config).unwrap();
    std::fs::set_permissions(&config, PermissionsExt::from_mode(0o644)).unwrap();
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={STRANGER}"), &format!("--regid={STRANGER}"), groups]).arg(&dsmctl);
    let output = command.args(["--json", "ping"]).env("DSM_CONFIG", &config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    rows[0]["path"].as_str().unwrap().to_owned()
}

#[test]
fn a_user_who_may_not_open_the_segment_goes_by_tcp_and_one_of_its_group_does_not() {
    if !is_root() {
        return;
    }
    let cluster = Cluster::builder().k(K).local().start();
    assert_eq!(path_of_stranger(&cluster, "--clear-groups"), "tcp");
    let group = nix::unistd::getegid();
    assert_eq!(path_of_stranger(&cluster, &format!("--groups={group}")), "local");
}

/// Makes everything of the cluster in shared memory the stranger's, with a mode.
fn plant(cluster: &Cluster, group: Option<u32>, mode: u32) {
    for path in cluster.leftovers() {
        chown(&path, Some(STRANGER), group).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }
}

#[test]
fn a_segment_that_a_stranger_may_have_laid_out_is_not_used() {
    if !is_root() {
        return;
    }
    let cluster = Cluster::start(1, K);
    let path = || local_client(&cluster).data_path(0).unwrap();
    assert_eq!(path(), DataPath::Local);
    let own = nix::unistd::getegid().as_raw();
    for (group, mode, expected) in [
        // It could be opened, but may be anybody's.
        (own, 0o666, DataPath::Tcp),
        (own, 0o664, DataPath::Tcp),
        (STRANGER, 0o660, DataPath::Tcp),
        // A member of a group of ours who shares it with that group only: as dsmd does.
        (own, 0o660, DataPath::Local),
    ] {
        plant(&cluster, Some(group), mode);
        assert_eq!(path(), expected, "group {group}, mode {mode:o}");
    }
}
