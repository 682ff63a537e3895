//! A /dev/shm without room for the segment is a clear error at start, and leaves nothing behind.
//!
//! Each case runs dsmd in a mount namespace of its own, where /dev/shm is a small tmpfs. That takes root.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::{Command, Output};
use support::{Cluster, namespace};

/// Exit codes of sysexits(3).
const IO_ERROR: i32 = 74;
const CONFIG: i32 = 78;

const MIB: u64 = 1 << 20;

/// Runs dsmd where /dev/shm has `size` bytes, of which `used` are taken; its output, and what was left in /dev/shm.
/// `None`, with the reason printed, where the machine does not allow it.
fn run_with_shm(cluster: &Cluster, size: u64, used: u64) -> Option<(Output, String)> {
    let mount = format!("mount -t tmpfs -o size={size} tmpfs /dev/shm");
    if !namespace::is_allowed() {
        return None;
    }
    let left = cluster.directory().join("left");
    let script = format!(
        "{mount} && head -c {used} /dev/zero > /dev/shm/ballast && \"$@\"; code=$?; rm /dev/shm/ballast; \
         ls -A /dev/shm > '{}'; df --output=used /dev/shm | tail -n 1 >> '{}'; exit $code",
        left.display(),
        left.display()
    );
    let dsmd = cluster.command(0);
    let output = Command::new("unshare")
        .args(["--mount", "timeout", "20", "sh", "-c", &script, "sh"])
        .arg(dsmd.get_program())
        .args(dsmd.get_args())
        .env_remove("NOTIFY_SOCKET")
        .output()
        .unwrap();
    Some((output, std::fs::read_to_string(left).unwrap()))
}

#[test]
fn a_full_dev_shm_is_a_clear_error_and_nothing_is_left_behind() {
    let cluster = Cluster::builder().k(64 * MIB).create();
    let Some((output, left)) = run_with_shm(&cluster, 128 * MIB, 100 * MIB) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    println!("{}: {said}", output.status);
    assert_eq!(output.status.code(), Some(IO_ERROR), "{said}");
    for word in ["/dev/shm", cluster.name(), "free", &(28 * MIB).to_string()] {
        assert!(said.contains(word), "{said:?} does not say {word:?}");
    }
    assert_eq!(left.split_whitespace().collect::<Vec<_>>(), ["0"], "left in /dev/shm: {left:?}");
}

#[test]
fn a_k_that_dev_shm_can_never_hold_is_a_clear_error_and_nothing_is_left_behind() {
    let cluster = Cluster::builder().k(64 * MIB).create();
    let Some((output, left)) = run_with_shm(&cluster, 32 * MIB, 0) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    println!("{}: {said}", output.status);
    // As a mistake in mcomp.cfg, or as the lack of room that it leads to.
    assert!(matches!(output.status.code(), Some(IO_ERROR | CONFIG)), "{said}");
    assert!(said.contains("/dev/shm"), "{said:?} does not say where room is missing");
    assert_eq!(left.split_whitespace().collect::<Vec<_>>(), ["0"], "left in /dev/shm: {left:?}");
}

#[test]
fn a_dev_shm_with_just_too_little_room_for_the_tables_is_a_clear_error() {
    let cluster = Cluster::builder().k(8 * MIB).create();
    // k fits, the tables beside it do not.
    let Some((output, left)) = run_with_shm(&cluster, 8 * MIB + 64 * 1024, 0) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    println!("{}: {said}", output.status);
    assert_eq!(output.status.code(), Some(CONFIG), "{said}");
    assert!(said.contains("/dev/shm"), "{said:?} does not say where room is missing");
    assert_eq!(left.split_whitespace().collect::<Vec<_>>(), ["0"], "left in /dev/shm: {left:?}");
}
