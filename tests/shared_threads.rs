//! More connections than limits.threads share a few threads, and part again; what one of them waits for holds up no other.

#![allow(clippy::unwrap_used)]

mod support;

use dsm::protocol::{Extent, Operation};
use dsm::segment::Segment;
use std::time::{Duration, Instant};
use support::wire::{Wire, encoded};
use support::{Cluster, wait_for};

const K: u64 = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(20);

/// How long the freeze of a test lasts at most: as long as its reads take on a busy machine.
const LEASE: Duration = Duration::from_secs(10);

fn cluster() -> Cluster {
    Cluster::builder().k(K).config("[limits]\nthreads = 2\n").start()
}

/// Threads of the server that have one connection.
fn own_threads(cluster: &Cluster) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", cluster.pid(0))).unwrap().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.trim() == "dsm-connection").count()
}

fn read(wire: &mut Wire, id: u64) {
    let reply = wire.ask(id, Operation::Read(Extent::new(0, 8, K).unwrap()));
    assert_eq!((reply.code(), reply.payload.len()), (None, 8), "{}", reply.text());
}

#[test]
fn connections_share_threads_while_there_are_more_than_the_limit_and_have_their_own_again_after() {
    let cluster = cluster();
    let greeted = || Wire::greeted(cluster.layout(), 0);
    let mut wires = vec![greeted(), greeted()];
    wait_for("two threads for two connections", DEADLINE, || own_threads(&cluster) == 2);
    for round in 0..3 {
        wires.extend([greeted(), greeted(), greeted()]);
        wait_for("no thread for one connection alone", DEADLINE, || own_threads(&cluster) == 0);
        wires.iter_mut().for_each(|wire| read(wire, 10 * round + 1));
        wires.drain(..3);
        wait_for("two threads for two connections again", DEADLINE, || own_threads(&cluster) == 2);
        wires.iter_mut().for_each(|wire| read(wire, 10 * round + 2));
    }
}

#[test]
fn requests_that_are_under_way_while_connections_move_are_answered_in_order() {
    let cluster = cluster();
    let mut wire = Wire::greeted(cluster.layout(), 0);
    let began = Instant::now();
    let mut id = 0;
    while began.elapsed() < Duration::from_secs(3) {
        let others: Vec<Wire> = (0..3).map(|_| Wire::greeted(cluster.layout(), 0)).collect();
        for round in 0..200 {
            let first = id + 1;
            for _ in 0..20 {
                id += 1;
                wire.send(&encoded(id, Operation::Write(Extent::new(id % 512 * 8, 8, K).unwrap(), &id.to_le_bytes())));
            }
            for expected in first..=id {
                let reply = wire.reply();
                assert_eq!((reply.code(), reply.header.id.get()), (None, expected), "{}", reply.text());
            }
            if round == 100 {
                others.iter().for_each(|other| other.stream().shutdown(std::net::Shutdown::Both).unwrap());
            }
        }
    }
}

#[test]
fn a_write_that_waits_for_a_snapshot_holds_up_no_read_on_the_same_thread() {
    let cluster = cluster();
    // Each shared thread has several of them.
    let mut wires: Vec<Wire> = (0..32).map(|_| Wire::greeted(cluster.layout(), 0)).collect();
    wait_for("no thread for one connection alone", DEADLINE, || own_threads(&cluster) == 0);
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let mut claim = segment.claim().unwrap().unwrap();
    let frozen = claim.freeze(LEASE).unwrap();
    let (writers, readers) = wires.split_at_mut(16);
    for wire in writers.iter_mut() {
        wire.send(&encoded(1, Operation::Write(Extent::new(64, 8, K).unwrap(), b"12345678")));
    }
    let began = Instant::now();
    for id in 1..100 {
        readers.iter_mut().for_each(|wire| read(wire, id));
    }
    assert!(began.elapsed() < LEASE / 2, "reads took {:?} while writers stood still", began.elapsed());
    // Nobody has written meanwhile.
    let word = readers[0].ask(100, Operation::Read(Extent::new(64, 8, K).unwrap()));
    assert_eq!(word.payload, [0; 8]);
    drop(frozen);
    for wire in writers {
        assert_eq!(wire.reply().code(), None);
    }
    assert_eq!(readers[0].ask(101, Operation::Read(Extent::new(64, 8, K).unwrap())).payload, b"12345678");
}
