//! Whether a thread looks for the next request for a moment before it sleeps until one comes. To be
//! woken takes some 50 µs where the processor has gone to rest meanwhile, which is several times as
//! long as a small request takes.

use std::time::Duration;

/// How long it looks: as long as a client takes that has to be woken itself, and answers at once.
pub(super) const MAX_POLL: Duration = Duration::from_micros(100);

/// A client that was quicker than this may be as quick again: the time to look, and that to be
/// woken.
const SHORT_SLEEP: Duration = Duration::from_micros(250);

/// The most sleeps without a look after looks that were in vain. Bounds what a client costs that is
/// always a little late.
const MAX_SLEEPS: u32 = 256;

/// What a thread knows of its client's pace.
#[derive(Debug, Default)]
pub(super) struct Polling {
    /// Sleeps before the next look.
    sleeps: u32,
    /// How many there were before the last look in vain.
    penalty: u32,
    /// The last sleep was short.
    quick: bool,
}

impl Polling {
    /// Whether to look now.
    #[inline]
    pub(super) fn is_worthwhile(&self) -> bool {
        self.quick && self.sleeps == 0
    }

    /// A look found something.
    #[inline]
    pub(super) fn hit(&mut self) {
        self.penalty = 0;
    }

    /// A look was in vain.
    pub(super) fn missed(&mut self) {
        self.penalty = (self.penalty * 2).clamp(1, MAX_SLEEPS);
        self.sleeps = self.penalty;
    }

    /// A sleep has ended, with something received.
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
    fn a_client_that_takes_its_time_is_never_looked_for() {
        let mut polling = Polling::default();
        for _ in 0..1000 {
            assert!(!polling.is_worthwhile());
            polling.slept(SHORT_SLEEP);
        }
    }

    #[test]
    fn a_quick_client_is_looked_for_and_one_that_is_always_late_less_and_less() {
        let mut polling = Polling::default();
        polling.slept(Duration::from_micros(20));
        assert!(polling.is_worthwhile());
        polling.hit();
        assert!(polling.is_worthwhile());
        let mut looks = 0;
        for _ in 0..10_000 {
            if polling.is_worthwhile() {
                looks += 1;
                polling.missed();
            }
            polling.slept(SHORT_SLEEP / 2);
        }
        assert!((1..60).contains(&looks), "{looks}");
        polling.hit();
        polling.slept(Duration::ZERO);
        assert_eq!(polling.penalty, 0);
    }
}
