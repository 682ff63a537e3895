//! A client that requests gigabytes and reads no reply costs a bounded amount of memory, and is
//! disconnected.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use dsm_core::layout::MAX_ATOMIC;
use dsm_core::protocol::{Extent, MemoryOperation};
use std::io::Write;
use std::time::{Duration, Instant};
use support::wire::{TEST_TIMEOUT, Wire, encoded};
use support::{Cluster, client};

const K: u64 = 8 << 20;
const GREEDY: usize = 8;

/// Sends reads of 1 MiB without reading a reply until it is disconnected; returns the number of
/// requests sent.
fn ask_and_never_read(mut wire: Wire) -> u64 {
    let began = Instant::now();
    let extent = Extent::new(0, MAX_ATOMIC, K).unwrap();
    let mut sent = 0;
    for id in 1..100_000 {
        // The server stops reading requests when it cannot send its replies: this bounds its
        // memory.
        if wire
            .try_send(&encoded(id, MemoryOperation::Read(extent)))
            .is_err()
        {
            return sent;
        }
        sent = id;
        assert!(
            began.elapsed() < TEST_TIMEOUT,
            "the connection is never closed"
        );
    }
    wire.stream().flush().unwrap();
    // If all requests fit the socket buffers, the end of the connection shows at the next read or
    // write.
    while wire.try_send(b"D").is_ok() {
        assert!(
            began.elapsed() < TEST_TIMEOUT,
            "the connection is never closed"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    sent
}

#[test]
fn clients_that_never_read_are_disconnected_and_cost_bounded_memory() {
    let limits = "[limits]\nrequest_timeout = \"2s\"\nbuffer_memory = \"64MiB\"\n";
    let cluster = Cluster::builder().k(K).config(limits).start();
    let pid = cluster.pid(0);
    let before = support::process::status_field(pid, "RssAnon");
    let client = client(&cluster);
    std::thread::scope(|scope| {
        let layout = cluster.layout();
        let greedy: Vec<_> = (0..GREEDY)
            .map(|_| scope.spawn(|| ask_and_never_read(Wire::greeted(layout, 0))))
            .collect();
        let (mut most, mut slowest, mut served) = (0, Duration::ZERO, 0_u64);
        while !greedy
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            let began = Instant::now();
            assert_eq!(client.fetch_add(0, 1).unwrap(), served);
            assert_eq!(client.read(4096, 65536).unwrap().len(), 65536);
            slowest = slowest.max(began.elapsed());
            served += 1;
            most = most.max(support::process::status_field(pid, "RssAnon"));
        }
        let asked: u64 = greedy
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum();
        println!(
            "{GREEDY} clients asked for {asked} MiB and read nothing: private memory grew by {} KiB; \
             another client was served {served} times, the slowest took {slowest:?}",
            most.saturating_sub(before) / 1024
        );
        assert!(
            most.saturating_sub(before) < 96 << 20,
            "private memory grew to {most} bytes from {before}"
        );
        assert!(
            slowest < Duration::from_secs(2),
            "another client waited {slowest:?}"
        );
        assert!(served > 10);
    });
}
