//! Runs a test in a mount namespace, and some also in a network namespace. Only root can create
//! them.

use super::own_process;
use super::skip::skip;
use std::net::{SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable that is set inside the namespace.
const INSIDE: &str = "DSM_TEST_NAMESPACE";

/// Whether this process may create a mount namespace. If not, prints the reason.
pub fn is_allowed() -> bool {
    // The mount ends with its namespace.
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

/// Returns true inside a namespace. Outside, runs the test `test` of the module `module`, which is
/// its `module_path!()`, again inside a namespace if that is allowed, and returns false.
#[track_caller]
pub fn entered(module: &str, test: &str) -> bool {
    entered_with(&["--mount"], module, test)
}

/// [`entered`], also with a network namespace that has only a loopback interface.
#[track_caller]
pub fn entered_with_network(module: &str, test: &str) -> bool {
    let entered = entered_with(&["--mount", "--net"], module, test);
    if entered {
        run(Command::new("ip").args(["link", "set", "lo", "up"]));
    }
    entered
}

/// Removes the addresses of loopback (`verb` is `del`), or adds them (`add`).
///
/// # Panics
/// Outside a network namespace.
#[track_caller]
pub fn change_loopback(verb: &str) {
    assert!(is_inside(), "this is the network of the host");
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

/// Lets the network lose the packets of a connection that `from` sends to `to`.
///
/// # Panics
/// Outside a network namespace.
#[track_caller]
pub fn drop_packets(from: SocketAddrV4, to: SocketAddrV4) {
    assert!(is_inside(), "this is the network of the host");
    let rule = |text: &str| {
        let words = text.split_whitespace();
        run(Command::new("ip").arg("rule").args(words));
    };
    // The rule for addresses of this machine, which comes before all others, is put behind ours.
    rule("add pref 100 lookup local");
    rule("del pref 0");
    let (from, to) = (from.port(), to.port());
    rule(&format!(
        "add pref 10 ipproto tcp sport {from} dport {to} blackhole"
    ));
}

/// Replaces /etc/hosts by `text` in this namespace.
#[track_caller]
pub fn set_hosts(text: &str, folder: &Path) {
    replace("/etc/hosts", text, folder);
}

/// Lets the resolver of this namespace ask a server that receives every question and answers none,
/// until the returned socket is closed.
#[track_caller]
pub fn set_silent_resolver(folder: &Path) -> UdpSocket {
    let text = "nameserver 127.0.0.1\noptions timeout:30 attempts:5\n";
    replace("/etc/resolv.conf", text, folder);
    UdpSocket::bind("127.0.0.1:53").unwrap()
}

#[track_caller]
fn replace(path: &str, text: &str, folder: &Path) {
    let file = folder.join(Path::new(path).file_name().unwrap());
    std::fs::write(&file, text).unwrap();
    run(Command::new("mount").arg("--bind").arg(&file).arg(path));
}

/// A tmpfs. Dropping this unmounts it.
pub struct Mounted(PathBuf);

impl Mounted {
    /// Mounts a tmpfs of `size` bytes on `folder`.
    #[track_caller]
    pub fn new(size: u64, folder: &Path) -> Self {
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder));
        Self(folder.to_owned())
    }

    /// Remounts it read-only.
    #[track_caller]
    pub fn make_read_only(&self) {
        run(Command::new("mount")
            .args(["-o", "remount,ro"])
            .arg(&self.0));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // `--lazy` also works while a process has a file open there.
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
