//! Requests: every field has been checked against the segment that the request is for.

use super::{Code, Opcode, Refusal, RequestHeader};
use crate::layout::MAX_ATOMIC;
use zerocopy::IntoBytes;

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

    /// Checks the header of a write with `payload` bytes of data, as [`Request::parse`] does, for a
    /// receiver that keeps the data elsewhere.
    ///
    /// # Errors
    /// As [`Request::parse`].
    pub fn of_write(header: &RequestHeader, payload: usize, k: u64) -> Result<Self, Refusal> {
        check_shape(Opcode::Write, header, payload)?;
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
}

/// A checked operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// The handshake; the payload is [`super::HelloRequest`] and the layout text.
    Hello(&'a [u8]),
    /// Read a range.
    Read(Extent),
    /// Write a range; the data has the extent's length.
    Write(Extent, &'a [u8]),
    /// Set every byte of a range.
    Fill(Extent, u8),
    /// Change a word and return what it was.
    Atomic(Word, AtomicOperation),
    /// Copy a range; the two extents have the same length and may overlap.
    Copy {
        /// The source.
        from: Extent,
        /// The destination.
        to: Extent,
    },
    /// Return state and counters.
    Status,
    /// Return the payload.
    Ping(&'a [u8]),
}

impl Operation<'_> {
    /// The number of bytes of memory that it changes.
    #[must_use]
    pub fn changes(&self) -> usize {
        match self {
            Self::Write(extent, _) | Self::Fill(extent, _) | Self::Copy { to: extent, .. } => {
                extent.length()
            }
            Self::Atomic(word, _) => word.extent().length(),
            Self::Hello(_) | Self::Read(_) | Self::Status | Self::Ping(_) => 0,
        }
    }
}

/// A request whose fields have been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The id, which orders the requests of a session.
    pub id: u64,
    /// What it asks for.
    pub operation: Operation<'a>,
}

impl<'a> Request<'a> {
    /// Checks a header and its whole payload against a segment of `k` bytes.
    ///
    /// # Errors
    /// The refusal to send. It depends only on the arguments.
    pub fn parse(header: &RequestHeader, payload: &'a [u8], k: u64) -> Result<Self, Refusal> {
        let opcode = Opcode::from_number(header.opcode).ok_or_else(|| {
            let message = format!(
                "opcode {} is not known; the highest is {}",
                header.opcode,
                Opcode::ALL.len()
            );
            Refusal::new(Code::UnknownOpcode, message)
        })?;
        let (offset, operand) = (header.offset.get(), header.operand.get());
        check_shape(opcode, header, payload.len())?;
        let word = |operation| Ok(Operation::Atomic(Word::new(offset, k)?, operation));
        let operation = match opcode {
            Opcode::Hello => Operation::Hello(payload),
            Opcode::Read => Operation::Read(Extent::new(offset, operand, k)?),
            Opcode::Write => Operation::Write(Extent::of_write(header, payload.len(), k)?, payload),
            Opcode::Fill => Operation::Fill(Extent::new(offset, operand, k)?, header.argument),
            Opcode::FetchAdd => word(AtomicOperation::Add(operand))?,
            Opcode::Swap => word(AtomicOperation::Swap(operand))?,
            Opcode::CompareAndSwap => word(AtomicOperation::CompareAndSwap {
                expected: number(payload)?,
                new: operand,
            })?,
            Opcode::FetchAnd => word(AtomicOperation::And(operand))?,
            Opcode::FetchOr => word(AtomicOperation::Or(operand))?,
            Opcode::FetchXor => word(AtomicOperation::Xor(operand))?,
            Opcode::Copy => Operation::Copy {
                from: Extent::new(number(payload)?, operand, k)?,
                to: Extent::new(offset, operand, k)?,
            },
            Opcode::Status => Operation::Status,
            Opcode::Ping => Operation::Ping(payload),
        };
        Ok(Self {
            id: header.id.get(),
            operation,
        })
    }

    /// Encodes the request as a header and the payload that follows it.
    #[must_use]
    pub fn encode(&self) -> (RequestHeader, Payload<'a>) {
        let (opcode, offset, operand, argument, payload) = match self.operation {
            Operation::Hello(payload) => (Opcode::Hello, 0, 0, 0, Payload::Bytes(payload)),
            Operation::Read(extent) => (
                Opcode::Read,
                extent.offset,
                u64::from(extent.length),
                0,
                Payload::NONE,
            ),
            Operation::Write(extent, data) => {
                (Opcode::Write, extent.offset, 0, 0, Payload::Bytes(data))
            }
            Operation::Fill(extent, byte) => (
                Opcode::Fill,
                extent.offset,
                u64::from(extent.length),
                byte,
                Payload::NONE,
            ),
            Operation::Atomic(word, atomic) => {
                let (operand, payload) = match atomic {
                    AtomicOperation::CompareAndSwap { expected, new } => {
                        (new, Payload::Number(expected.to_le_bytes()))
                    }
                    AtomicOperation::Add(operand)
                    | AtomicOperation::Swap(operand)
                    | AtomicOperation::And(operand)
                    | AtomicOperation::Or(operand)
                    | AtomicOperation::Xor(operand) => (operand, Payload::NONE),
                };
                (atomic.opcode(), word.0, operand, 0, payload)
            }
            Operation::Copy { from, to } => {
                let source = Payload::Number(from.offset.to_le_bytes());
                (Opcode::Copy, to.offset, u64::from(to.length), 0, source)
            }
            Operation::Status => (Opcode::Status, 0, 0, 0, Payload::NONE),
            Operation::Ping(payload) => (Opcode::Ping, 0, 0, 0, Payload::Bytes(payload)),
        };
        // No payload is longer than MAX_PAYLOAD, a u32.
        #[allow(clippy::cast_possible_truncation)]
        let length = payload.as_ref().len() as u32;
        let header = RequestHeader {
            argument,
            payload: length.into(),
            offset: offset.into(),
            operand: operand.into(),
            ..RequestHeader::new(opcode, self.id)
        };
        (header, payload)
    }

    /// Appends header and payload to `buffer`.
    pub fn append_to(&self, buffer: &mut Vec<u8>) {
        let (header, payload) = self.encode();
        buffer.extend_from_slice(header.as_bytes());
        buffer.extend_from_slice(payload.as_ref());
    }
}

/// The payload of an encoded request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload<'a> {
    /// Bytes borrowed from the request.
    Bytes(&'a [u8]),
    /// One little-endian u64.
    Number([u8; 8]),
}

impl Payload<'_> {
    const NONE: Self = Self::Bytes(&[]);
}

impl AsRef<[u8]> for Payload<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(number) => number,
        }
    }
}

/// Refuses a payload of the wrong length, and an unused field that is not zero: a field that is
/// ignored today could not be given a meaning tomorrow.
fn check_shape(opcode: Opcode, header: &RequestHeader, payload: usize) -> Result<(), Refusal> {
    use Opcode as O;
    let fixed = match opcode {
        O::Hello | O::Write | O::Ping => payload,
        O::CompareAndSwap | O::Copy => 8,
        _ => 0,
    };
    if payload != fixed {
        let message = format!(
            "{} has {payload} bytes of payload; it must have {fixed}",
            opcode.name()
        );
        return Err(Refusal::new(Code::BadRequest, message));
    }
    let uses_offset = !matches!(opcode, O::Hello | O::Status | O::Ping);
    let uses_operand = uses_offset && opcode != O::Write;
    for (field, used, value) in [
        ("offset", uses_offset, header.offset.get()),
        ("operand", uses_operand, header.operand.get()),
        ("argument", opcode == O::Fill, u64::from(header.argument)),
    ] {
        if !used && value != 0 {
            let message = format!(
                "{} has {value} in the field {field}; it must be 0",
                opcode.name()
            );
            return Err(Refusal::new(Code::BadRequest, message));
        }
    }
    Ok(())
}

fn number(payload: &[u8]) -> Result<u64, Refusal> {
    payload.try_into().map(u64::from_le_bytes).map_err(|_| {
        Refusal::new(
            Code::BadRequest,
            "a number of 8 bytes is missing from the payload",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::{HEADER, split_request};
    use super::*;
    use proptest::prelude::*;

    const K: u64 = 1 << 22;

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic_or_pass_the_end_of_the_segment(bytes in proptest::array::uniform32(any::<u8>()), opcode in 0_u8..16, payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut bytes = bytes;
            bytes[..2].copy_from_slice(b"DQ");
            bytes[2] = opcode;
            if let Ok(Some((header, _))) = split_request(&bytes)
                && let Ok(request) = Request::parse(&header, &payload, K)
            {
                let inside = |extent: Extent| extent.end() <= K && extent.length() as u64 <= MAX_ATOMIC;
                let good = match request.operation {
                    Operation::Read(extent) | Operation::Fill(extent, _) => inside(extent),
                    Operation::Write(extent, data) => inside(extent) && data.len() == extent.length(),
                    Operation::Atomic(word, _) => word.offset() % 8 == 0 && inside(word.extent()),
                    Operation::Copy { from, to } => inside(from) && inside(to) && from.length() == to.length(),
                    Operation::Hello(_) | Operation::Status | Operation::Ping(_) => true,
                };
                prop_assert!(good);
            }
        }

        #[test]
        fn an_encoded_request_parses_to_itself(id in any::<u64>(), offset in 0..K / 2, length in 0_u64..4096, value in any::<u64>(), data in proptest::collection::vec(any::<u8>(), 0..256), which in 0_usize..13) {
            let extent = Extent::new(offset, length, K).unwrap();
            let word = Word::new(offset & !7, K).unwrap();
            let operation = [
                Operation::Hello(&data),
                Operation::Read(extent),
                Operation::Write(Extent::new(offset, data.len() as u64, K).unwrap(), &data),
                Operation::Fill(extent, 7),
                Operation::Atomic(word, AtomicOperation::Add(value)),
                Operation::Atomic(word, AtomicOperation::Swap(value)),
                Operation::Atomic(word, AtomicOperation::CompareAndSwap { expected: id, new: value }),
                Operation::Atomic(word, AtomicOperation::And(value)),
                Operation::Atomic(word, AtomicOperation::Or(value)),
                Operation::Atomic(word, AtomicOperation::Xor(value)),
                Operation::Copy { from: Extent::new(K / 2, length, K).unwrap(), to: extent },
                Operation::Status,
                Operation::Ping(&data),
            ][which];
            let request = Request { id, operation };
            let mut bytes = Vec::new();
            request.append_to(&mut bytes);
            let (header, rest) = split_request(&bytes).unwrap().unwrap();
            prop_assert_eq!(bytes.len(), HEADER + header.payload.get() as usize);
            prop_assert_eq!(Request::parse(&header, rest, K).unwrap(), request);
        }
    }

    #[test]
    fn an_unused_field_must_be_zero() {
        for (opcode, change) in [
            (Opcode::Ping, 0),
            (Opcode::Status, 1),
            (Opcode::Write, 1),
            (Opcode::Read, 2),
        ] {
            let mut header = RequestHeader::new(opcode, 1);
            match change {
                0 => header.offset = 8.into(),
                1 => header.operand = 8.into(),
                _ => header.argument = 8,
            }
            assert_eq!(
                Request::parse(&header, &[], K).unwrap_err().code,
                Code::BadRequest,
                "{opcode:?}"
            );
        }
    }
}
