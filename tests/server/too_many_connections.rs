//! 2,000 connections against a limit of 1,024: the excess is told which limit it has reached, and
//! the others are served.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use dsm_core::protocol::{Code, Request};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::wire::{Wire, hello};
use support::{Cluster, client, own_process};

const K: u64 = 1 << 20;
const LIMIT: usize = 1024;
const ASKED: usize = 2000;

/// Allows both ends of every connection: the servers inherit the limit, and so would those of other
/// tests.
fn raise_open_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = 8192.min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).unwrap();
    assert!(
        wanted > ASKED as u64 + 200,
        "RLIMIT_NOFILE allows only {hard} open files: raise it with ulimit -Hn 8192"
    );
}

/// The private memory of a process in bytes.
fn private_memory(pid: u32) -> u64 {
    support::process::status_field(pid, "RssAnon")
}

#[test]
fn the_excess_over_the_limit_is_refused_by_name_and_the_others_are_served() {
    let name = "the_excess_over_the_limit_is_refused_by_name_and_the_others_are_served";
    if !own_process::entered(module_path!(), name) {
        return;
    }
    raise_open_files();
    let cluster = Cluster::builder()
        .k(K)
        .config(&format!("[limits]\nconnections = {LIMIT}\n"))
        .start();
    let before = private_memory(cluster.pid(0));
    let (mut served, mut refused) = (Vec::new(), 0);
    for place in 0..ASKED {
        let mut wire = Wire::connect(cluster.address(0));
        // A refused connection may be closed before the hello is sent; the refusal can be read
        // nevertheless.
        let _ = wire.try_send(&hello(cluster.layout(), 0));
        let reply = wire
            .try_reply()
            .unwrap_or_else(|error| panic!("connection {place} got no reply: {error}"));
        if reply.code().is_none() {
            served.push(wire);
        } else {
            reply.assert_refused(Code::TooManyConnections, &["limits.connections", "1024"]);
            wire.assert_closed();
            refused += 1;
        }
    }
    println!("asked {ASKED}, served {}, refused {refused}", served.len());
    assert_eq!((served.len(), refused), (LIMIT, ASKED - LIMIT));
    for (place, wire) in served.iter_mut().enumerate() {
        let text = place.to_string();
        assert_eq!(wire.ask(1, Request::Ping(text.as_bytes())).text(), text);
    }
    let grown = private_memory(cluster.pid(0)).saturating_sub(before);
    let threads = support::process::status_field(cluster.pid(0), "Threads");
    println!(
        "private memory grown by {} KiB, {threads} threads",
        grown / 1024
    );
    assert!(grown < 256 << 20, "{grown} bytes for {LIMIT} connections");
    assert!(threads < 64, "{threads} threads for {LIMIT} connections");

    // As soon as one disconnects, another can connect.
    served.truncate(LIMIT - 10);
    let client = client(&cluster);
    client.write(0, b"a place became free").unwrap();
    let status = client.status(0).unwrap();
    assert_eq!(status.connections.limit, LIMIT as u64);
    assert!(
        status.connections.refused >= refused as u64,
        "{:?}",
        status.connections
    );
}
