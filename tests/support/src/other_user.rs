//! Runs a program as an unprivileged user. Only root can do that.

use super::Cluster;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// The id of the user, and of the group.
pub const OTHER_USER: u32 = 65533;

/// Whether this process can become another user. If not, prints the reason.
pub fn is_possible() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        super::skip::skip("only root can become another user");
    }
    is_root
}

/// The command line that runs `program` as the other user. `groups` is the argument of setpriv(1)
/// for the supplementary groups. The other user cannot read the files of a test: the returned
/// folder has copies of the program and of the cluster's mcomp.cfg.
pub fn command(program: &str, cluster: &Cluster, groups: &str) -> (tempfile::TempDir, Command) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let copy = folder.path().join(Path::new(program).file_name().unwrap());
    let config = folder.path().join("mcomp.cfg");
    // cp(1) writes the copy, not this process: a child that a parallel test forks during the write
    // would inherit the open file, and execve(2) fails with ETXTBSY while it is open for writing.
    assert!(
        Command::new("cp")
            .arg(program)
            .arg(&copy)
            .status()
            .unwrap()
            .success()
    );
    std::fs::copy(cluster.config_path(), &config).unwrap();
    std::fs::set_permissions(&config, PermissionsExt::from_mode(0o644)).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args([
            &format!("--reuid={OTHER_USER}"),
            &format!("--regid={OTHER_USER}"),
            groups,
        ])
        .arg(&copy);
    command
        .env("DSM_CONFIG", &config)
        .env_remove("NOTIFY_SOCKET")
        .env_remove("JOURNAL_STREAM");
    (folder, command)
}
