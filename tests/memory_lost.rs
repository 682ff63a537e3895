//! Memory that was lost says so: a client that knew it gets an error and never silent zeros.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

mod support;

use dsm::Error;
use support::{Cluster, client};

#[test]
fn a_client_that_knew_the_lost_memory_is_told_and_a_new_one_reads_zeros() {
    let cluster = Cluster::start(2, 1 << 20);
    let k = cluster.layout().k();
    let old = client(&cluster);
    old.write(0, b"server 0").unwrap();
    old.write(k, b"server 1").unwrap();
    let bystander = client(&cluster);

    cluster.kill(1);
    cluster.forget(1);
    cluster.start_server(1);

    // Reads, writes and atomics alike, and again and again: the loss is not forgotten by being told once.
    for _ in 0..2 {
        for error in [
            old.read(k, 8).unwrap_err(),
            old.write(k, b"x").unwrap_err(),
            old.fetch_add(k, 1).unwrap_err(),
            old.read(k - 8, 16).unwrap_err(),
        ] {
            assert!(matches!(error, Error::MemoryLost { server: 1, .. }), "{error:?}");
            let said = error.to_string();
            assert!(said.contains("server 1") && said.contains(cluster.address(1)), "{said:?}");
        }
    }
    assert_eq!(old.read(0, 8).unwrap(), b"server 0", "the other server has lost nothing");
    // This one never saw server 1's memory, so for it nothing was lost.
    assert_eq!(bystander.read(k, 8).unwrap(), [0; 8]);
    assert_eq!(client(&cluster).read(k, 8).unwrap(), [0; 8]);

    old.accept_memory_loss(1);
    assert_eq!(old.read(k, 8).unwrap(), [0; 8], "whoever accepts the loss goes on");
    old.write(k, b"new life").unwrap();
    assert_eq!(client(&cluster).read(k, 8).unwrap(), b"new life");
}

#[test]
fn memory_thrown_away_by_reset_is_lost_too() {
    let cluster = Cluster::start(1, 1 << 20);
    let old = client(&cluster);
    old.write(0, b"precious").unwrap();
    cluster.kill(0);
    // A reset that is stopped again leaves a new, empty segment for the ordinary start after it.
    let mut reset = cluster.command(0).arg("--reset").spawn().unwrap();
    cluster_is_up(&cluster);
    reset.kill().unwrap();
    reset.wait().unwrap();
    cluster.start_server(0);
    let error = old.read(0, 8).unwrap_err();
    assert!(matches!(error, Error::MemoryLost { server: 0, .. }), "{error:?}");
    assert_eq!(client(&cluster).read(0, 8).unwrap(), [0; 8]);
}

fn cluster_is_up(cluster: &Cluster) {
    support::wait_for("dsmd --reset listens", support::wire::PATIENCE, || {
        std::net::TcpStream::connect(cluster.address(0)).is_ok()
    });
}

#[test]
fn every_server_that_lost_its_memory_is_named() {
    let cluster = Cluster::start(3, 1 << 20);
    let old = client(&cluster);
    let k = cluster.layout().k();
    for server in 0..3 {
        old.write(server * k, &[7; 8]).unwrap();
    }
    (0..3).for_each(|server| cluster.kill(server));
    (0..3).for_each(|server| cluster.forget(server));
    (0..3).for_each(|server| cluster.start_server(server));
    for server in 0..3 {
        let error = old.read(server as u64 * k, 8).unwrap_err();
        assert!(matches!(error, Error::MemoryLost { server: found, .. } if found == server), "{error:?}");
    }
}
