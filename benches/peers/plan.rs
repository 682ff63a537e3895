//! The requests of a load: their offsets, their size, and whether they read or write.

use dsm_benches::pattern::BytePattern;
use dsm_service::cli::random::SplitMix64;
use std::ops::Range;

/// Whether requests read or write.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mix {
    /// All requests read.
    Read,
    /// All requests write.
    Write,
    /// Half of the requests write, chosen at random.
    Mixed,
}

/// The memory, divided into slots.
#[derive(Clone, Copy)]
pub(crate) struct Shape<'p> {
    pub(crate) pattern: &'p BytePattern,
    /// The distance of two slots in bytes.
    pub(crate) stride: u64,
    /// The number of slots.
    pub(crate) slots: u64,
    /// Bytes that a request reads or writes.
    pub(crate) size: usize,
}

/// One request.
pub(crate) struct PlannedRequest {
    pub(crate) offset: u64,
    pub(crate) writes: bool,
}

/// The sequence of the requests of one thread.
pub(crate) struct RequestPlan<'p> {
    pub(crate) shape: Shape<'p>,
    mix: Mix,
    random: SplitMix64,
    /// The remaining slots; `None` for an endless sequence of random slots.
    once: Option<Range<u64>>,
}

impl<'p> RequestPlan<'p> {
    /// An endless sequence of random slots.
    pub(crate) fn random(shape: Shape<'p>, mix: Mix, thread: usize) -> Self {
        Self {
            shape,
            mix,
            random: SplitMix64::new(thread as u64),
            once: None,
        }
    }

    /// Each of `slots` once.
    pub(crate) fn once(shape: Shape<'p>, mix: Mix, slots: Range<u64>) -> Self {
        Self {
            shape,
            mix,
            random: SplitMix64::new(0),
            once: Some(slots),
        }
    }

    /// Ends the sequence.
    pub(crate) fn end(&mut self) {
        self.once = Some(0..0);
    }

    /// The next request; `None` at the end of the sequence.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<PlannedRequest> {
        let random = self.random.next();
        let slot = match &mut self.once {
            Some(slots) => slots.next()?,
            None => random % self.shape.slots,
        };
        let writes = match self.mix {
            Mix::Read => false,
            Mix::Write => true,
            // This bit is independent of the slot, because the number of slots is a power of two.
            Mix::Mixed => random >> 63 == 1,
        };
        Some(PlannedRequest {
            offset: slot * self.shape.stride,
            writes,
        })
    }
}
