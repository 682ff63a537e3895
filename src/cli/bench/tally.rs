//! The results of a load: the number and the latencies of the requests of each kind, and the
//! failures.

use super::histogram::Histogram;
use super::plan::RequestKind;
use crate::cli::failure::code_of_memory;
use dsm_client::{Error, ErrorKind};
use std::time::{Duration, Instant};

/// The latencies of the successful requests of one kind.
pub(super) struct Latencies {
    histogram: Histogram,
    pub(super) count: u64,
    /// The sum of the latencies. This and the next two are in nanoseconds.
    sum: u128,
    least: u64,
    greatest: u64,
}

impl Latencies {
    pub(super) fn new() -> Self {
        Self {
            histogram: Histogram::new(),
            count: 0,
            sum: 0,
            least: u64::MAX,
            greatest: 0,
        }
    }

    #[inline]
    fn add(&mut self, time: Duration) {
        // At most `u64::MAX`, which is 584 years.
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.add(nanoseconds);
        self.count += 1;
        self.sum += u128::from(nanoseconds);
        self.least = self.least.min(nanoseconds);
        self.greatest = self.greatest.max(nanoseconds);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.histogram.merge(&other.histogram);
        self.count += other.count;
        self.sum += other.sum;
        self.least = self.least.min(other.least);
        self.greatest = self.greatest.max(other.greatest);
    }

    /// Least, mean, 50th, 90th, 99th and 99.9th percentile, and greatest, in nanoseconds; `None`
    /// without a request.
    pub(super) fn summary(&self) -> Option<[u64; 7]> {
        let within = |one_in| {
            Some(
                self.histogram
                    .all_but(one_in)?
                    .clamp(self.least, self.greatest),
            )
        };
        // The mean of 64-bit numbers fits 64 bits.
        #[allow(clippy::cast_possible_truncation)]
        let mean = self.sum.checked_div(u128::from(self.count))? as u64;
        Some([
            self.least,
            mean,
            within(2)?,
            within(10)?,
            within(100)?,
            within(1000)?,
            self.greatest,
        ])
    }

    /// See [`Histogram::buckets`].
    pub(super) fn buckets(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.histogram.buckets()
    }
}

/// Requests that failed with the same kind of error at the same server.
pub(super) struct FailedRequests {
    pub(super) count: u64,
    /// The error of the first one.
    pub(super) error: Error,
}

impl FailedRequests {
    /// The kind of the error.
    pub(super) fn kind(&self) -> &'static str {
        name(&self.error)
    }

    fn is_like(&self, error: &Error) -> bool {
        (self.kind(), self.error.server()) == (name(error), error.server())
    }
}

/// The name of the kind of an error, or of the refusal.
fn name(error: &Error) -> &'static str {
    match (error.kind(), error.refusal()) {
        (ErrorKind::Refused, Some(code)) => code.name(),
        (kind, _) => kind.name(),
    }
}

/// The results of one connection or of all.
pub(super) struct Tally {
    latencies: [Latencies; RequestKind::ALL.len()],
    pub(super) failed: Vec<FailedRequests>,
    /// From the first request to the last reply; `None` before the first run.
    time: Option<(Instant, Instant)>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            latencies: std::array::from_fn(|_| Latencies::new()),
            failed: Vec::new(),
            time: None,
        }
    }

    /// Counts a request that took `time`.
    #[inline]
    pub(super) fn succeeded(&mut self, kind: RequestKind, time: Duration) {
        self.latencies[kind as usize].add(time);
    }

    /// Counts requests that failed.
    pub(super) fn failed(&mut self, count: u64, error: Error) {
        match self.failed.iter_mut().find(|failed| failed.is_like(&error)) {
            Some(failed) => failed.count += count,
            None => self.failed.push(FailedRequests { count, error }),
        }
    }

    /// Extends the measured time by a run from `begin` to `end`.
    pub(super) fn took(&mut self, begin: Instant, end: Instant) {
        let (first, last) = self.time.unwrap_or((begin, end));
        self.time = Some((first.min(begin), last.max(end)));
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.latencies
            .iter_mut()
            .zip(&other.latencies)
            .for_each(|(ours, theirs)| ours.merge(theirs));
        other
            .failed
            .into_iter()
            .for_each(|failed| self.failed(failed.count, failed.error));
        if let Some((begin, end)) = other.time {
            self.took(begin, end);
        }
    }

    /// The successful requests of one kind.
    pub(super) fn of(&self, kind: RequestKind) -> &Latencies {
        &self.latencies[kind as usize]
    }

    /// The successful requests of all kinds.
    pub(super) fn all(&self) -> Latencies {
        let mut all = Latencies::new();
        self.latencies
            .iter()
            .for_each(|latencies| all.merge(latencies));
        all
    }

    pub(super) fn failures(&self) -> u64 {
        self.failed.iter().map(|failed| failed.count).sum()
    }

    /// The greatest exit code of the failures; `None` without failures.
    pub(super) fn code(&self) -> Option<u8> {
        self.failed
            .iter()
            .map(|failed| code_of_memory(&failed.error))
            .max()
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.time.map_or(Duration::ZERO, |(begin, end)| end - begin)
    }
}
