//! Adaptive polling: whether a thread polls the socket for a moment before it blocks. A wake-up
//! takes about 50 µs on a processor that has gone idle, several times as long as a small request.

use std::time::Duration;

/// The longest poll: as long as a client takes that is woken up itself and then answers
/// immediately.
pub(super) const MAX_POLL: Duration = Duration::from_micros(100);

/// After a blocking receive shorter than this, the next request may be as quick: a poll plus a
/// wake-up.
const SHORT_SLEEP: Duration = Duration::from_micros(250);

/// The longest backoff, in blocking receives without a poll, after polls that found nothing. It
/// bounds the cost of a client that is always slightly late.
const MAX_SLEEPS: u32 = 256;

/// The recent pace of the client.
#[derive(Debug, Default)]
pub(super) struct Polling {
    /// Blocking receives before the next poll.
    sleeps: u32,
    /// The backoff after the last poll that found nothing.
    penalty: u32,
    /// The last blocking receive was short.
    quick: bool,
}

impl Polling {
    /// Whether to poll now.
    #[inline]
    pub(super) fn is_worthwhile(&self) -> bool {
        self.quick && self.sleeps == 0
    }

    /// A poll found bytes.
    #[inline]
    pub(super) fn hit(&mut self) {
        self.penalty = 0;
    }

    /// A poll found nothing.
    pub(super) fn missed(&mut self) {
        self.penalty = (self.penalty * 2).clamp(1, MAX_SLEEPS);
        self.sleeps = self.penalty;
    }

    /// A blocking receive returned bytes after `time`.
    pub(super) fn slept(&mut self, time: Duration) {
        self.quick = time < SHORT_SLEEP;
        if self.quick {
            self.sleeps = self.sleeps.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_client_is_never_polled() {
        let mut polling = Polling::default();
        for _ in 0..1000 {
            assert!(!polling.is_worthwhile());
            polling.slept(SHORT_SLEEP);
        }
    }

    #[test]
    fn a_quick_client_is_polled_and_polls_of_one_that_is_always_late_back_off() {
        let mut polling = Polling::default();
        polling.slept(Duration::from_micros(20));
        assert!(polling.is_worthwhile());
        polling.hit();
        assert!(polling.is_worthwhile());
        let mut polls = 0;
        for _ in 0..10_000 {
            if polling.is_worthwhile() {
                polls += 1;
                polling.missed();
            }
            polling.slept(SHORT_SLEEP / 2);
        }
        assert!((1..60).contains(&polls), "{polls}");
        polling.hit();
        polling.slept(Duration::ZERO);
        assert_eq!(polling.penalty, 0);
    }
}
