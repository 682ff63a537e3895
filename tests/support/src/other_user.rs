//! Programs of a user who has nothing here. That takes root.

use super::Cluster;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// The user, and the group of the same number.
pub const OTHER_USER: u32 = 65533;

/// Whether other users can be tried here. If not, that is printed.
pub fn is_possible() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        super::skip::skip("only root can become another user");
    }
    is_root
}

/// The command line of `program` as the other user, with these arguments of setpriv(1) for the
/// groups. It has the cluster's mcomp.cfg; a copy of it and of the program are in the folder, for
/// those of a test are for its user only.
pub fn command(program: &str, cluster: &Cluster, groups: &str) -> (tempfile::TempDir, Command) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let copy = folder.path().join(Path::new(program).file_name().unwrap());
    let config = folder.path().join("mcomp.cfg");
    // In another process: a child that a neighbour's test forks while this process writes the copy
    // would keep it open for writing, and what is open so cannot be executed.
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
