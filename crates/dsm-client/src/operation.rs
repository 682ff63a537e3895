//! Arguments with names, for operations that take two values of the same type.

use dsm_core::protocol::AtomicOperation;

/// The words of a compare-and-swap. It is written with its fields' names, so that the two cannot
/// change places; the operation has no others, so it can be built without a constructor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompareAndSwap {
    /// What the word must be, to be replaced.
    pub expected: u64,
    /// What it is replaced with.
    pub new: u64,
}

impl CompareAndSwap {
    pub(super) fn operation(self) -> AtomicOperation {
        AtomicOperation::CompareAndSwap {
            expected: self.expected,
            new: self.new,
        }
    }
}
