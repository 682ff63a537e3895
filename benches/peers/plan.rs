//! What is asked for: where, how much, and whether to read or to write.

use dsm_benches::pattern::Pattern;
use dsm_service::cli::random::Random;
use std::ops::Range;

/// What requests do.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mix {
    /// All read.
    Read,
    /// All write.
    Write,
    /// Every other one, by chance.
    Mixed,
}

/// The memory and how it is cut up.
#[derive(Clone, Copy)]
pub(crate) struct Shape<'p> {
    pub(crate) pattern: &'p Pattern,
    /// Offsets are multiples of it.
    pub(crate) stride: u64,
    /// How many of them there are.
    pub(crate) slots: u64,
    /// Bytes of a request.
    pub(crate) size: usize,
}

/// One request.
pub(crate) struct Task {
    pub(crate) offset: u64,
    pub(crate) writes: bool,
}

/// The requests of one thread, one after the other.
pub(crate) struct Plan<'p> {
    pub(crate) shape: Shape<'p>,
    mix: Mix,
    random: Random,
    /// Those that are left, when there is an end.
    once: Option<Range<u64>>,
}

impl<'p> Plan<'p> {
    /// Random slots, without end.
    pub(crate) fn random(shape: Shape<'p>, mix: Mix, thread: usize) -> Self {
        Self {
            shape,
            mix,
            random: Random::new(thread as u64),
            once: None,
        }
    }

    /// These slots, once.
    pub(crate) fn once(shape: Shape<'p>, mix: Mix, slots: Range<u64>) -> Self {
        Self {
            shape,
            mix,
            random: Random::new(0),
            once: Some(slots),
        }
    }

    /// Nothing more is to be asked for.
    pub(crate) fn end(&mut self) {
        self.once = Some(0..0);
    }

    /// The next request; `None` when all was asked for.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<Task> {
        let random = self.random.next();
        let slot = match &mut self.once {
            Some(slots) => slots.next()?,
            None => random % self.shape.slots,
        };
        let writes = match self.mix {
            Mix::Read => false,
            Mix::Write => true,
            // The slot says nothing of this bit: their number is a power of two.
            Mix::Mixed => random >> 63 == 1,
        };
        Some(Task {
            offset: slot * self.shape.stride,
            writes,
        })
    }
}
