//! Signals that arrive before dsmd is ready have the same meaning as later.
#![allow(clippy::unwrap_used)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::Cluster;

const K: u64 = 192 << 20;

fn signalled_after(
    cluster: &Cluster,
    object: &Path,
    delay: Duration,
    signals: &[Signal],
) -> std::process::ExitStatus {
    let mut child = cluster.command(0).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !object.exists() && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "dsmd does not start");
        std::thread::sleep(Duration::from_millis(1));
    }
    // Not a wait for a condition: the test covers the moments of a start one by one.
    std::thread::sleep(delay);
    for signal in signals {
        kill(Pid::from_raw(child.id().try_into().unwrap()), *signal).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    child.wait().unwrap()
}

#[test]
fn a_stop_during_the_start_ends_in_order_and_leaves_all_or_nothing() {
    let cluster = Cluster::builder().k(K).create();
    let object = Path::new("/dev/shm").join(format!("{}.0", cluster.name()));
    let mut broken_off = 0;
    for step in 0..20 {
        let delay = Duration::from_millis(step * 10);
        let status = signalled_after(&cluster, &object, delay, &[Signal::SIGHUP, Signal::SIGTERM]);
        assert_eq!(status.code(), Some(0), "after {delay:?}: {status}");
        match std::fs::metadata(&object) {
            Ok(object) => assert!(object.len() > K, "a partial segment was left"),
            Err(_) => broken_off += 1,
        }
        for leftover in cluster.leftovers() {
            std::fs::remove_file(leftover).unwrap();
        }
    }
    println!("{broken_off} of 20 starts were broken off, the others became ready");
}
