//! Counters: each thread writes its own block, and a status request adds the blocks up.

use dsm_core::protocol::{LatencyBucket, Opcode, Traffic};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of the histogram of service times: bucket b counts those from 2^b to 2^(b+1) ns, the
/// last one also all longer ones.
const BUCKETS: usize = 40;

/// The counters of one thread. Only that thread writes them, so adding needs no locked instruction;
/// they lie on separate cache lines, so that no thread invalidates those of another.
#[repr(align(128))]
pub(super) struct Counters {
    operations: [AtomicU64; Opcode::ALL.len()],
    latency: [AtomicU64; BUCKETS],
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    errors: AtomicU64,
    replayed: AtomicU64,
}

impl Counters {
    fn new() -> Self {
        Self {
            operations: zeros(),
            latency: zeros(),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
        }
    }

    /// A request was executed.
    #[inline]
    pub(super) fn operation(&self, opcode: Opcode) {
        add(&self.operations[opcode as usize - 1], 1);
    }

    /// Data was sent to a client.
    #[inline]
    pub(super) fn read(&self, bytes: usize) {
        add(&self.bytes_read, bytes as u64);
    }

    /// Data was received from a client, or changed for one.
    #[inline]
    pub(super) fn written(&self, bytes: usize) {
        add(&self.bytes_written, bytes as u64);
    }

    /// A request was refused.
    pub(super) fn error(&self) {
        add(&self.errors, 1);
    }

    /// A resent request had been executed already.
    pub(super) fn replay(&self) {
        add(&self.replayed, 1);
    }

    /// `requests` were read together, and all answered `elapsed` later.
    #[inline]
    pub(super) fn served(&self, requests: u64, elapsed: Duration) {
        let nanoseconds = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX).max(1);
        add(
            &self.latency[(nanoseconds.ilog2() as usize).min(BUCKETS - 1)],
            requests,
        );
    }
}

fn zeros<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

/// Adds to a counter that only the calling thread writes.
#[inline]
fn add(counter: &AtomicU64, more: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(more),
        Ordering::Relaxed,
    );
}

/// The counters of all threads.
pub(super) struct Statistics(Vec<Counters>);

impl Statistics {
    /// Room for `threads` threads.
    pub(super) fn new(threads: usize) -> Self {
        Self((0..threads).map(|_| Counters::new()).collect())
    }

    /// The block of the thread that is worker `index` of the segment. No two threads have the same
    /// index at a time.
    pub(super) fn of(&self, index: usize) -> &Counters {
        &self.0[index]
    }

    /// Executed requests, by operation.
    pub(super) fn operations(&self) -> BTreeMap<String, u64> {
        let sum = |opcode: Opcode| self.sum(|counters| &counters.operations[opcode as usize - 1]);
        Opcode::ALL
            .into_iter()
            .map(|opcode| (opcode.name().to_owned(), sum(opcode)))
            .collect()
    }

    /// Bytes and outcomes.
    pub(super) fn traffic(&self) -> Traffic {
        let mut traffic = Traffic::default();
        traffic.bytes_read = self.sum(|counters| &counters.bytes_read);
        traffic.bytes_written = self.sum(|counters| &counters.bytes_written);
        traffic.errors = self.sum(|counters| &counters.errors);
        traffic.replayed = self.sum(|counters| &counters.replayed);
        traffic
    }

    /// The histogram of service times, without empty buckets at its ends.
    pub(super) fn latency(&self) -> Vec<LatencyBucket> {
        let buckets: Vec<LatencyBucket> = (0..BUCKETS)
            .map(|bucket| {
                let count = self.sum(|counters| &counters.latency[bucket]);
                LatencyBucket::new(2 << bucket, count)
            })
            .collect();
        let first = buckets
            .iter()
            .position(|bucket| bucket.count > 0)
            .unwrap_or(BUCKETS);
        let end = buckets
            .iter()
            .rposition(|bucket| bucket.count > 0)
            .map_or(first, |last| last + 1);
        buckets[first..end].to_vec()
    }

    fn sum(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.0
            .iter()
            .map(|counters| counter(counters).load(Ordering::Relaxed))
            .sum()
    }
}
