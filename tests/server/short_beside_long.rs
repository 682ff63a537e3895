//! Short requests are served between the parts of long ones, which stay reads of one instant.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use dsm_core::layout::MAX_ATOMIC;
use dsm_core::protocol::{Extent, MemoryChange, MemoryOperation};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::wire::Wire;
use support::{Cluster, wait_for};

const K: u64 = 4 << 20;
const DEADLINE: Duration = Duration::from_secs(20);

/// Connections that read 1 MiB at a time: many for each shared thread.
const LONG_READERS: usize = 32;

/// A server whose connections share threads if there is more than one.
fn cluster() -> Cluster {
    Cluster::builder()
        .k(K)
        .config("[limits]\nthreads = 1\n")
        .start()
}

fn long() -> Extent {
    Extent::new(0, MAX_ATOMIC, K).unwrap()
}

fn read(wire: &mut Wire, id: u64, extent: Extent) {
    let reply = wire.ask(id, MemoryOperation::Read(extent));
    assert_eq!(reply.code(), None, "read {id}: {}", reply.text());
    assert_eq!(reply.payload.len(), extent.length());
}

#[test]
fn a_short_read_does_not_wait_for_the_long_reads_of_all_others() {
    let cluster = cluster();
    let short = Extent::new(0, 8, K).unwrap();
    let mut wire = Wire::greeted(cluster.layout(), 0);
    let readers: Vec<Wire> = (0..LONG_READERS)
        .map(|_| Wire::greeted(cluster.layout(), 0))
        .collect();
    let (long_reads, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let short_reads = 300;
    std::thread::scope(|scope| {
        for mut reader in readers {
            let (long_reads, over) = (&long_reads, &over);
            scope.spawn(move || {
                let mut id = 0;
                while !over.load(Ordering::Relaxed) {
                    id += 1;
                    read(&mut reader, id, long());
                    long_reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        wait_for("all readers read", DEADLINE, || {
            long_reads.load(Ordering::Relaxed) > 4 * LONG_READERS as u64
        });
        let before = long_reads.load(Ordering::Relaxed);
        (1..=short_reads).for_each(|id| read(&mut wire, id, short));
        let between = long_reads.load(Ordering::Relaxed) - before;
        over.store(true, Ordering::Relaxed);
        println!("{between} long reads were answered beside {short_reads} short ones");
        // A short read that waits for the turns of all others sees about as many long ones.
        assert!(between < short_reads * LONG_READERS as u64 / 4, "{between}");
    });
}

#[test]
fn a_long_reply_that_is_sent_in_parts_shows_one_instant() {
    let cluster = cluster();
    let mut writer = Wire::greeted(cluster.layout(), 0);
    let readers: Vec<Wire> = (0..4).map(|_| Wire::greeted(cluster.layout(), 0)).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = readers
            .into_iter()
            .map(|mut reader| {
                scope.spawn(move || {
                    let mut seen = 0;
                    for id in 1..=100 {
                        let reply = reader.ask(id, MemoryOperation::Read(long()));
                        assert_eq!(reply.code(), None, "{}", reply.text());
                        let first = reply.payload[0];
                        assert!(
                            reply.payload.iter().all(|byte| *byte == first),
                            "bytes of two writes"
                        );
                        seen += u32::from(first > 0);
                    }
                    seen
                })
            })
            .collect();
        let mut id = 0;
        while !threads
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            id += 1;
            let byte = u8::try_from(id % 255 + 1).unwrap();
            let data = vec![byte; long().length()];
            let reply = writer.ask(id, MemoryChange::Write(long(), &data));
            assert_eq!(reply.code(), None, "{}", reply.text());
        }
        for thread in threads {
            assert!(thread.join().unwrap() > 0, "it has read no write");
        }
    });
}
