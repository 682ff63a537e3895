//! A dsmd that cannot start reports it by its exit code, detached or not, and leaves nothing
//! behind.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use support::counts::count;
use support::{Cluster, client, namespace, wait_for};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn detached(cluster: &Cluster, pid_file: &Path) -> Command {
    let mut command = cluster.command(0);
    command.arg("--daemonize").arg("--pid-file").arg(pid_file);
    command
}

#[test]
fn a_port_in_use_is_found_before_memory_is_allocated() {
    let cluster = Cluster::builder().create();
    let _other = TcpListener::bind(cluster.address(0)).unwrap();
    let output = cluster.command(0).output().unwrap();
    assert_eq!(output.status.code(), Some(69), "{}", text(&output));
    assert!(
        text(&output).contains("Another program has the port"),
        "{}",
        text(&output)
    );
    assert!(cluster.leftovers().is_empty());
}

/// A detached dsmd, which is told to stop however the test ends.
struct Running(i32);

impl Drop for Running {
    fn drop(&mut self) {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.0),
            nix::sys::signal::SIGTERM,
        )
        .unwrap();
    }
}

#[test]
fn a_detached_dsmd_is_ready_when_the_command_returns_and_removes_its_pid_file() {
    let cluster = Cluster::builder().create();
    let pid_file = cluster.directory().join("dsmd.pid");
    let output = detached(&cluster, &pid_file).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    client(&cluster).ping(0).unwrap();
    let running = Running(
        std::fs::read_to_string(&pid_file)
            .unwrap()
            .trim()
            .parse()
            .unwrap(),
    );
    let pid = running.0;

    let again = detached(&cluster, &pid_file).output().unwrap();
    assert_eq!(again.status.code(), Some(77), "{}", text(&again));
    assert!(text(&again).contains(&pid.to_string()), "{}", text(&again));
    let other_file = cluster.directory().join("other.pid");
    let other = detached(&cluster, &other_file).output().unwrap();
    assert_eq!(other.status.code(), Some(69), "{}", text(&other));
    assert!(
        text(&other).contains(&pid.to_string()) && !other_file.exists(),
        "{}",
        text(&other)
    );

    drop(running);
    wait_for("the pid file to go", Duration::from_secs(20), || {
        !pid_file.exists()
    });
}

#[test]
fn a_pid_file_that_cannot_be_created_is_an_error() {
    let cluster = Cluster::builder().create();
    let output = detached(&cluster, Path::new("/nonexistent/dsmd.pid"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(77), "{}", text(&output));
    assert!(cluster.leftovers().is_empty());
}

#[test]
fn an_index_outside_the_map_is_a_usage_error() {
    let cluster = Cluster::builder().create();
    for (arguments, said) in [
        (["--index", "1"], "index"),
        (["--index", "x"], "whole number"),
        (["--log-level", "loud"], "give off, error"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_dsmd"))
            .arg("--config")
            .arg(cluster.config_path())
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(64), "{}", text(&output));
        assert!(
            text(&output).starts_with("dsmd: ") && text(&output).contains(said),
            "{}",
            text(&output)
        );
    }
}

#[test]
fn a_dsmd_that_is_killed_during_its_start_leaves_only_documented_names() {
    // In a separate /dev/shm: any program may create semaphores in that of the machine.
    if !namespace::entered(
        module_path!(),
        "a_dsmd_that_is_killed_during_its_start_leaves_only_documented_names",
    ) {
        return;
    }
    let _shared_memory = namespace::Mounted::new(64 << 20, Path::new("/dev/shm"));
    let cluster = Cluster::builder().create();
    let (object, semaphore) = (
        format!("{}.0", cluster.name()),
        format!("sem.{}.0.", cluster.name()),
    );
    let names = || {
        let entries = std::fs::read_dir("/dev/shm").unwrap().flatten();
        entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect::<Vec<_>>()
    };
    for round in 0..count(40, 400) {
        let mut child = cluster.command(0).spawn().unwrap();
        // dsmd is observed while it creates the names, and killed at another moment each time.
        let mut most = 0;
        while most < 1 + round % 70 {
            let found = names();
            let unknown = found
                .iter()
                .find(|name| !name.starts_with(&object) && !name.starts_with(&semaphore));
            if let Some(name) = unknown {
                let _ = child.kill();
                let _ = child.wait();
                panic!("round {round}: {name} is not among the names of the manual");
            }
            most = most.max(found.len());
            assert!(
                child.try_wait().unwrap().is_none(),
                "round {round}: it has ended"
            );
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // As dsmd(8) describes how to remove a segment.
        for name in names()
            .iter()
            .filter(|name| name.starts_with(&object) || name.starts_with(&semaphore))
        {
            std::fs::remove_file(Path::new("/dev/shm").join(name)).unwrap();
        }
        assert_eq!(names(), <[String; 0]>::default(), "round {round}");
    }
}
