//! The atomics: what each does to a word, and how a request states it.

use super::{Opcode, Payload};

/// What an atomic does to a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtomicOperation {
    /// Adds, wrapping at 2^64.
    Add(u64),
    /// Replaces.
    Swap(u64),
    /// Replaces the word if it has the expected value.
    CompareAndSwap {
        /// The value that the word must have.
        expected: u64,
        /// The value that replaces it.
        new: u64,
    },
    /// Bitwise and.
    And(u64),
    /// Bitwise or.
    Or(u64),
    /// Bitwise exclusive or.
    Xor(u64),
}

impl AtomicOperation {
    /// The value after the operation; `None` when a comparison failed and the word is not changed.
    #[must_use]
    pub fn apply(self, old: u64) -> Option<u64> {
        match self {
            Self::Add(operand) => Some(old.wrapping_add(operand)),
            Self::Swap(operand) => Some(operand),
            Self::CompareAndSwap { expected, new } => (old == expected).then_some(new),
            Self::And(operand) => Some(old & operand),
            Self::Or(operand) => Some(old | operand),
            Self::Xor(operand) => Some(old ^ operand),
        }
    }

    /// The opcode on the wire.
    #[must_use]
    pub fn opcode(self) -> Opcode {
        match self {
            Self::Add(_) => Opcode::FetchAdd,
            Self::Swap(_) => Opcode::Swap,
            Self::CompareAndSwap { .. } => Opcode::CompareAndSwap,
            Self::And(_) => Opcode::FetchAnd,
            Self::Or(_) => Opcode::FetchOr,
            Self::Xor(_) => Opcode::FetchXor,
        }
    }

    /// The header's operand and the payload of its request.
    pub(super) fn operands(self) -> (u64, Payload<'static>) {
        match self {
            Self::CompareAndSwap { expected, new } => {
                (new, Payload::Number(expected.to_le_bytes()))
            }
            Self::Add(operand)
            | Self::Swap(operand)
            | Self::And(operand)
            | Self::Or(operand)
            | Self::Xor(operand) => (operand, Payload::NONE),
        }
    }
}
