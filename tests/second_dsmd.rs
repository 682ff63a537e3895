//! A segment has one dsmd: a second one is refused and told who has it.

mod support;

use support::{Cluster, client};

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
        assert!(said.contains(&pid.to_string()), "{said:?} does not name pid {pid}");
    }
    assert_eq!(client(&cluster).read(0, 4).unwrap(), b"mine");
    assert_eq!(cluster.pid(0), pid);

    // The first one's death makes room at once, without anybody tidying up.
    cluster.restart(0);
    assert_eq!(client(&cluster).read(0, 4).unwrap(), b"mine");
}

#[test]
fn two_systems_on_one_machine_do_not_meet() {
    let (one, other) = (Cluster::start(1, 1 << 20), Cluster::start(1, 1 << 20));
    client(&one).write(0, b"one").unwrap();
    client(&other).write(0, b"two").unwrap();
    assert_eq!(client(&one).read(0, 3).unwrap(), b"one");
    assert_eq!(client(&other).read(0, 3).unwrap(), b"two");
}
