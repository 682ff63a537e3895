//! Ranges inside a segment, which only a check can make.

use super::{Code, Opcode, Refusal, RequestHeader};
use crate::layout::MAX_ATOMIC;

/// A range inside a segment of known size, at most [`MAX_ATOMIC`] bytes long. It can only be
/// created by a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    offset: u64,
    length: u32,
}

impl Extent {
    /// Checks a range of `length` bytes at `offset` against a segment of `k` bytes.
    ///
    /// # Errors
    /// [`Code::TooLong`] or [`Code::OutOfRange`].
    pub fn new(offset: u64, length: u64, k: u64) -> Result<Self, Refusal> {
        if length > MAX_ATOMIC {
            let message = format!(
                "length {length} is too long: one request carries at most {MAX_ATOMIC} bytes; split it"
            );
            return Err(Refusal::new(Code::TooLong, message));
        }
        match offset.checked_add(length) {
            // At most MAX_ATOMIC, which fits.
            #[allow(clippy::cast_possible_truncation)]
            Some(end) if end <= k => Ok(Self {
                offset,
                length: length as u32,
            }),
            _ => {
                let message = format!(
                    "offset {offset} length {length} is outside the segment, which has {k} bytes"
                );
                Err(Refusal::new(Code::OutOfRange, message))
            }
        }
    }

    /// Checks the header of a write with `payload` bytes of data, as [`super::Request::parse`] does, for a
    /// receiver that keeps the data elsewhere.
    ///
    /// # Errors
    /// As [`super::Request::parse`].
    pub fn of_write(header: &RequestHeader, payload: usize, k: u64) -> Result<Self, Refusal> {
        Opcode::Write.entry().check(header, payload)?;
        Self::new(header.offset.get(), payload as u64, k)
    }

    /// First byte, as an offset into the segment.
    #[must_use]
    pub fn offset(self) -> u64 {
        self.offset
    }

    /// Bytes; may be zero.
    #[must_use]
    pub fn length(self) -> usize {
        self.length as usize
    }

    /// The offset after the last byte.
    #[must_use]
    pub fn end(self) -> u64 {
        self.offset + u64::from(self.length)
    }
}

/// The offset of an aligned word of eight bytes inside a segment of known size. It can only be
/// created by a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word(u64);

impl Word {
    /// Checks the offset of a word against a segment of `k` bytes.
    ///
    /// # Errors
    /// [`Code::Unaligned`] or [`Code::OutOfRange`].
    pub fn new(offset: u64, k: u64) -> Result<Self, Refusal> {
        if !offset.is_multiple_of(8) {
            let message = format!(
                "offset {offset} is not a multiple of 8: atomics work on aligned 8-byte words"
            );
            return Err(Refusal::new(Code::Unaligned, message));
        }
        Ok(Self(Extent::new(offset, 8, k)?.offset))
    }

    /// The offset into the segment; a multiple of eight.
    #[must_use]
    pub fn offset(self) -> u64 {
        self.0
    }

    /// The eight bytes of the word.
    #[must_use]
    pub fn extent(self) -> Extent {
        Extent {
            offset: self.0,
            length: 8,
        }
    }
}
