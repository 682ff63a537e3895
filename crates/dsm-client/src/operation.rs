//! Arguments that have names, where two of the same type could change places unnoticed.

use dsm_core::protocol::AtomicOperation;

/// The words of a compare-and-swap. Written with its fields' names, and complete: the operation has
/// no others.
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
