//! A client that reads its replies in tiny pieces is disconnected in time, on a dedicated thread
//! and on a shared one.
#![allow(clippy::unwrap_used)]

use dsm_core::layout::MAX_ATOMIC;
use dsm_core::protocol::{Extent, MemoryOperation};
use std::io::Read;
use std::time::{Duration, Instant};
use support::Cluster;
use support::wire::{Wire, encoded};

const K: u64 = 8 << 20;
const DEADLINE: Duration = Duration::from_secs(20);

fn is_disconnected(threads: usize) {
    let limits = format!("[limits]\nrequest_timeout = \"1s\"\nthreads = {threads}\n");
    let cluster = Cluster::builder().k(K).config(&limits).start();
    // With one dedicated thread taken, the next connection shares.
    let _others: Vec<Wire> = (0..2 - threads.min(2))
        .map(|_| Wire::greeted(cluster.layout(), 0))
        .collect();
    let mut wire = Wire::greeted(cluster.layout(), 0);
    let extent = Extent::new(0, MAX_ATOMIC, K).unwrap();
    for id in 1..64 {
        wire.try_send(&encoded(id, MemoryOperation::Read(extent)))
            .unwrap();
    }
    let began = Instant::now();
    let mut drop = [0; 8192];
    while !cluster.stderr(0).contains("did not take its replies") {
        assert!(
            began.elapsed() < DEADLINE,
            "a slow reader is never disconnected with {threads} threads"
        );
        let taken = wire.stream().read(&mut drop).unwrap();
        assert!(taken > 0, "disconnected without a line in the log");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_slow_reader_on_a_dedicated_thread_is_disconnected() {
    is_disconnected(16);
}

#[test]
fn a_slow_reader_on_a_shared_thread_is_disconnected() {
    is_disconnected(1);
}
