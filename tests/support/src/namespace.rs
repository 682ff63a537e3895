//! Tests that mount file systems, each in a mount namespace; some are in a network namespace, too.
//! That takes root.

use super::own_process;
use super::skip::skip;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set where the test runs in its namespace.
const INSIDE: &str = "DSM_TEST_NAMESPACE";

/// Whether this machine allows it. If not, the reason is printed.
pub fn is_allowed() -> bool {
    // It is gone with its namespace.
    let try_it = ["--mount", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"];
    match Command::new("unshare").args(try_it).output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            skip(format!(
                "no mount namespace here: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ));
            false
        }
        Err(error) => {
            skip(format!("unshare(1) cannot be run: {error}"));
            false
        }
    }
}

/// True inside a namespace. Outside it runs the test of that name, which stands in the module of
/// that `module_path!()`, again inside one, if that is allowed.
#[track_caller]
pub fn entered(module: &str, test: &str) -> bool {
    entered_with(&["--mount"], module, test)
}

/// The same with a network that has nothing but a loopback interface.
#[track_caller]
pub fn entered_with_network(module: &str, test: &str) -> bool {
    let entered = entered_with(&["--mount", "--net"], module, test);
    if entered {
        run(Command::new("ip").args(["link", "set", "lo", "up"]));
    }
    entered
}

/// Takes loopback's addresses away, or gives them back; in a network namespace only.
#[track_caller]
pub fn change_loopback(verb: &str) {
    assert!(is_inside(), "this is the machine's own network");
    run(Command::new("ip").args(["address", verb, "127.0.0.1/8", "dev", "lo"]));
}

fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

#[track_caller]
fn entered_with(kinds: &[&str], module: &str, test: &str) -> bool {
    if is_inside() {
        return true;
    }
    if !is_allowed() {
        return false;
    }
    let mut again = Command::new("unshare");
    again
        .args(kinds)
        .arg(std::env::current_exe().unwrap())
        .args(own_process::arguments(module, test))
        .env(INSIDE, "1");
    own_process::passes(&mut again, test);
    false
}

/// Puts `text` in the place of /etc/hosts, in this namespace.
#[track_caller]
pub fn set_hosts(text: &str, folder: &Path) {
    let file = folder.join("hosts");
    std::fs::write(&file, text).unwrap();
    run(Command::new("mount")
        .arg("--bind")
        .arg(&file)
        .arg("/etc/hosts"));
}

/// An empty file system in memory, unmounted when dropped.
pub struct Mounted(PathBuf);

impl Mounted {
    /// One of `size` bytes.
    #[track_caller]
    pub fn new(size: u64, folder: &Path) -> Self {
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder));
        Self(folder.to_owned())
    }

    /// Nothing can be written there from now on.
    #[track_caller]
    pub fn make_read_only(&self) {
        run(Command::new("mount")
            .args(["-o", "remount,ro"])
            .arg(&self.0));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Also while a process has a file open there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
