//! A segment has one dsmd: a second one is refused and told which process serves it.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use nix::sys::signal::Signal;
use std::process::Command;
use support::program::ChildProgram;
use support::{Cluster, client, namespace};

/// `EX_UNAVAILABLE` of sysexits(3).
const UNAVAILABLE: i32 = 69;

#[test]
fn a_second_dsmd_is_refused_naming_the_pid_of_the_first() {
    let cluster = Cluster::start(1, 1 << 20);
    client(&cluster).write(0, b"mine").unwrap();
    let pid = cluster.pid(0);
    for argument in [None, Some("--reset")] {
        let output = cluster.command(0).args(argument).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        println!("{}: {said}", output.status);
        assert_eq!(output.status.code(), Some(UNAVAILABLE), "{said}");
        assert!(
            said.contains(&pid.to_string()),
            "{said:?} does not name pid {pid}"
        );
    }
    assert_eq!(client(&cluster).read(0, 4).unwrap(), b"mine");
    assert_eq!(cluster.pid(0), pid);

    // After the death of the first one, another can start at once, without any clean-up.
    cluster.restart(0);
    assert_eq!(client(&cluster).read(0, 4).unwrap(), b"mine");
}

#[test]
fn a_dsmd_of_another_pid_namespace_is_named_without_a_pid_that_is_another_process_here() {
    if !namespace::is_allowed() {
        return;
    }
    let cluster = Cluster::builder().create();
    let dsmd = cluster.command(0);
    let mut contained = Command::new("unshare");
    // In that namespace its pid is 1.
    contained
        .args(["--pid", "--fork", "--kill-child"])
        .arg(dsmd.get_program())
        .args(dsmd.get_args());
    let first = ChildProgram::new(
        "a dsmd in a container".to_owned(),
        cluster.directory().join("stderr.contained"),
    );
    first.spawn(&mut contained);
    first.wait_until_ready(cluster.address(0));
    let refused = |mut command: Command| {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("{}: {said}", output.status);
        assert_eq!(output.status.code(), Some(UNAVAILABLE), "{said}");
        said
    };
    let said = refused(cluster.command(0));
    assert!(
        said.contains("another pid namespace") && !said.contains("pid 1"),
        "{said}"
    );
    first.kill();
    client(&cluster).ping(0).unwrap_err();

    // The same with the roles exchanged.
    cluster.start_server(0);
    let mut contained = Command::new("unshare");
    contained
        .args(["--pid", "--fork", "--kill-child"])
        .arg(dsmd.get_program())
        .args(dsmd.get_args());
    let said = refused(contained);
    assert!(
        said.contains("another pid namespace")
            && !said.contains(&format!("pid {}", cluster.pid(0))),
        "{said}"
    );
}

#[test]
fn two_memories_on_one_machine_are_independent() {
    let (one, other) = (Cluster::start(1, 1 << 20), Cluster::start(1, 1 << 20));
    client(&one).write(0, b"one").unwrap();
    client(&other).write(0, b"two").unwrap();
    assert_eq!(client(&one).read(0, 3).unwrap(), b"one");
    assert_eq!(client(&other).read(0, 3).unwrap(), b"two");
}

#[test]
fn a_second_dsmd_is_refused_while_the_memory_of_the_first_has_no_name() {
    let cluster = Cluster::start(1, 1 << 20);
    client(&cluster).write(0, b"mine").unwrap();
    let object = format!("/dev/shm/{}.0", cluster.name());
    // The first one cannot restore the name.
    cluster.signal(0, Signal::SIGSTOP);
    std::fs::remove_file(&object).unwrap();
    // With another address, the conflict does not show when it binds.
    let text = std::fs::read_to_string(cluster.config_path()).unwrap();
    let other = cluster.directory().join("mcomp.0.cfg");
    let address = cluster.address(0).replace(":7411", ":7412");
    std::fs::write(&other, text.replace(cluster.address(0), &address)).unwrap();
    let second = cluster.command(0);
    // If it is not refused, it would serve until it is stopped.
    let mut bounded = std::process::Command::new("timeout");
    bounded
        .arg("20")
        .arg(second.get_program())
        .args(second.get_args())
        .env_remove("NOTIFY_SOCKET");
    let output = bounded.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(UNAVAILABLE), "{said}");
    assert!(said.contains(&cluster.pid(0).to_string()), "{said}");
    assert!(
        !std::path::Path::new(&object).exists(),
        "it created another one"
    );
    cluster.signal(0, Signal::SIGCONT);
    support::wait_for("the name is restored", support::wire::TEST_TIMEOUT, || {
        std::path::Path::new(&object).exists()
    });
    assert_eq!(client(&cluster).read(0, 4).unwrap(), b"mine");
}
