//! The vocabulary of operations: their opcodes, what is known of each, and how a request is read
//! from a header and payload and written as them. A new operation changes no other file of the
//! protocol.

use super::{AtomicOperation, Code, Extent, Payload, Refusal, RequestHeader, Word};
use zerocopy::IntoBytes;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// Opens the connection and the session.
    Hello = 1,
    /// Reads a range.
    Read = 2,
    /// Writes a range.
    Write = 3,
    /// Sets every byte of a range to one value.
    Fill = 4,
    /// Adds to a word, wrapping; returns the old value.
    FetchAdd = 5,
    /// Replaces a word; returns the old value.
    Swap = 6,
    /// Replaces a word if it has the expected value; returns the old value.
    CompareAndSwap = 7,
    /// Bitwise and; returns the old value.
    FetchAnd = 8,
    /// Bitwise or; returns the old value.
    FetchOr = 9,
    /// Bitwise exclusive or; returns the old value.
    FetchXor = 10,
    /// Copies a range to another inside the segment.
    Copy = 11,
    /// Asks for the server's state and counters.
    Status = 12,
    /// Does nothing; the reply carries the same payload.
    Ping = 13,
}

/// The role that a key will need for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequiredRole {
    /// No role: it is what establishes who the client is.
    None,
    /// To look at the server.
    Monitor,
    /// To read the memory.
    Read,
    /// To change the memory.
    Write,
}

/// The part of the memory that a request is about, and the header fields that say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryRange {
    /// None. Offset and operand are unused.
    None,
    /// From the offset, as many bytes as the payload has. The operand is unused.
    Payload,
    /// From the offset, as many bytes as the operand says.
    Operand,
    /// The word at the offset; the operand is a number.
    Word,
}

impl MemoryRange {
    /// The length of the range, as the header states it.
    #[must_use]
    pub fn length(self, header: &RequestHeader) -> u64 {
        match self {
            Self::None => 0,
            Self::Payload => u64::from(header.payload.get()),
            Self::Operand => header.operand.get(),
            Self::Word => 8,
        }
    }
}

/// The payload that a request must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadShape {
    /// No payload.
    Empty,
    /// One number, 8 bytes.
    Number,
    /// Any bytes.
    Bytes,
}

/// What is known of an operation without its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperationEntry {
    /// Its opcode.
    pub opcode: Opcode,
    /// The name in logs, counters and documents.
    pub name: &'static str,
    /// Whether it may change the memory. Such a request takes effect exactly once.
    pub mutates: bool,
    /// The role that it needs.
    pub role: RequiredRole,
    /// The memory that it is about.
    pub range: MemoryRange,
    /// Whether it uses the header's field `argument`.
    pub uses_argument: bool,
    /// Its payload.
    pub payload: PayloadShape,
}

/// Every operation, in the order of the numbers. docs/protocol.md has the same table.
pub const OPERATIONS: [OperationEntry; 13] = {
    use {MemoryRange as M, Opcode as O, PayloadShape as P, RequiredRole as R};
    [
        no_change(O::Hello, "hello", R::None, M::None, P::Bytes),
        no_change(O::Read, "read", R::Read, M::Operand, P::Empty),
        change(O::Write, "write", M::Payload, P::Bytes),
        with_argument(change(O::Fill, "fill", M::Operand, P::Empty)),
        change(O::FetchAdd, "fetch-add", M::Word, P::Empty),
        change(O::Swap, "swap", M::Word, P::Empty),
        change(O::CompareAndSwap, "compare-and-swap", M::Word, P::Number),
        change(O::FetchAnd, "fetch-and", M::Word, P::Empty),
        change(O::FetchOr, "fetch-or", M::Word, P::Empty),
        change(O::FetchXor, "fetch-xor", M::Word, P::Empty),
        change(O::Copy, "copy", M::Operand, P::Number),
        no_change(O::Status, "status", R::Monitor, M::None, P::Empty),
        no_change(O::Ping, "ping", R::Monitor, M::None, P::Bytes),
    ]
};

const fn no_change(
    opcode: Opcode,
    name: &'static str,
    role: RequiredRole,
    range: MemoryRange,
    payload: PayloadShape,
) -> OperationEntry {
    OperationEntry {
        opcode,
        name,
        mutates: false,
        role,
        range,
        uses_argument: false,
        payload,
    }
}

const fn change(
    opcode: Opcode,
    name: &'static str,
    range: MemoryRange,
    payload: PayloadShape,
) -> OperationEntry {
    OperationEntry {
        mutates: true,
        ..no_change(opcode, name, RequiredRole::Write, range, payload)
    }
}

const fn with_argument(entry: OperationEntry) -> OperationEntry {
    OperationEntry {
        uses_argument: true,
        ..entry
    }
}

impl OperationEntry {
    /// Refuses a payload of the wrong length, and an unused field that is not zero: a field that
    /// is ignored today could not be given a meaning tomorrow.
    #[inline]
    pub(super) fn check(&self, header: &RequestHeader, payload: usize) -> Result<(), Refusal> {
        let fixed = match self.payload {
            PayloadShape::Empty => 0,
            PayloadShape::Number => 8,
            PayloadShape::Bytes => payload,
        };
        if payload != fixed {
            return Err(self.wrong_payload(payload, fixed));
        }
        let uses_offset = self.range != MemoryRange::None;
        let uses_operand = matches!(self.range, MemoryRange::Operand | MemoryRange::Word);
        for (field, used, value) in [
            ("offset", uses_offset, header.offset.get()),
            ("operand", uses_operand, header.operand.get()),
            ("argument", self.uses_argument, u64::from(header.argument)),
        ] {
            if !used && value != 0 {
                return Err(self.not_zero(field, value));
            }
        }
        Ok(())
    }

    #[cold]
    fn wrong_payload(&self, found: usize, expected: usize) -> Refusal {
        let message = format!(
            "{} has {found} bytes of payload; it must have {expected}",
            self.name
        );
        Refusal::new(Code::BadRequest, message)
    }

    #[cold]
    fn not_zero(&self, field: &str, value: u64) -> Refusal {
        let message = format!(
            "{} has {value} in the field {field}; it must be 0",
            self.name
        );
        Refusal::new(Code::BadRequest, message)
    }
}

impl Opcode {
    /// Every opcode, in the order of the numbers.
    pub const ALL: [Self; OPERATIONS.len()] = {
        let mut all = [Self::Hello; OPERATIONS.len()];
        let mut index = 0;
        while index < all.len() {
            all[index] = OPERATIONS[index].opcode;
            assert!(all[index] as usize == index + 1, "numbers without a gap");
            index += 1;
        }
        all
    };

    /// The opcode with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).wrapping_sub(1)).copied()
    }

    /// What is known of the operation.
    #[inline]
    #[must_use]
    pub fn entry(self) -> &'static OperationEntry {
        &OPERATIONS[self as usize - 1]
    }

    /// The name in logs, counters and documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// Whether the request may change the memory. Such a request takes effect exactly once.
    #[must_use]
    pub fn mutates(self) -> bool {
        self.entry().mutates
    }
}

/// A change of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryChange<'a> {
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
}

impl MemoryChange<'_> {
    /// The number of bytes of memory that it changes.
    #[inline]
    #[must_use]
    pub fn length(&self) -> usize {
        match self {
            Self::Write(extent, _) | Self::Fill(extent, _) | Self::Copy { to: extent, .. } => {
                extent.length()
            }
            Self::Atomic(word, _) => word.extent().length(),
        }
    }
}

/// What works on the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryOperation<'a> {
    /// Read a range.
    Read(Extent),
    /// Change the memory.
    Change(MemoryChange<'a>),
}

/// A request whose fields have been checked. Its id, which orders the requests of a session, is
/// beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// The handshake; the payload is [`super::HelloRequest`] and the layout text.
    Hello(&'a [u8]),
    /// Return state and counters.
    Status,
    /// Return the payload.
    Ping(&'a [u8]),
    /// Work on the memory.
    Memory(MemoryOperation<'a>),
}

impl<'a> From<MemoryOperation<'a>> for Request<'a> {
    #[inline]
    fn from(operation: MemoryOperation<'a>) -> Self {
        Self::Memory(operation)
    }
}

impl<'a> From<MemoryChange<'a>> for Request<'a> {
    #[inline]
    fn from(change: MemoryChange<'a>) -> Self {
        Self::Memory(MemoryOperation::Change(change))
    }
}

impl<'a> Request<'a> {
    /// Checks a header and its whole payload against a segment of `k` bytes.
    ///
    /// # Errors
    /// The refusal to send. It depends only on the arguments.
    pub fn parse(header: &RequestHeader, payload: &'a [u8], k: u64) -> Result<Self, Refusal> {
        let opcode = Opcode::from_number(header.opcode).ok_or_else(|| unknown(header.opcode))?;
        opcode.entry().check(header, payload.len())?;
        let (offset, operand) = (header.offset.get(), header.operand.get());
        let extent = |length| Extent::new(offset, length, k);
        let atomic = |operation| {
            let word = Word::new(offset, k)?;
            Ok::<_, Refusal>(MemoryChange::Atomic(word, operation).into())
        };
        Ok(match opcode {
            Opcode::Hello => Self::Hello(payload),
            Opcode::Read => MemoryOperation::Read(extent(operand)?).into(),
            Opcode::Write => MemoryChange::Write(extent(payload.len() as u64)?, payload).into(),
            Opcode::Fill => MemoryChange::Fill(extent(operand)?, header.argument).into(),
            Opcode::FetchAdd => atomic(AtomicOperation::Add(operand))?,
            Opcode::Swap => atomic(AtomicOperation::Swap(operand))?,
            Opcode::CompareAndSwap => atomic(AtomicOperation::CompareAndSwap {
                expected: number(payload)?,
                new: operand,
            })?,
            Opcode::FetchAnd => atomic(AtomicOperation::And(operand))?,
            Opcode::FetchOr => atomic(AtomicOperation::Or(operand))?,
            Opcode::FetchXor => atomic(AtomicOperation::Xor(operand))?,
            Opcode::Copy => MemoryChange::Copy {
                from: Extent::new(number(payload)?, operand, k)?,
                to: extent(operand)?,
            }
            .into(),
            Opcode::Status => Self::Status,
            Opcode::Ping => Self::Ping(payload),
        })
    }

    /// Encodes the request with this id, as a header and the payload that follows it.
    #[must_use]
    pub fn encode(&self, id: u64) -> (RequestHeader, Payload<'a>) {
        let (opcode, offset, operand, argument, payload) = match *self {
            Self::Hello(payload) => (Opcode::Hello, 0, 0, 0, Payload::Bytes(payload)),
            Self::Status => (Opcode::Status, 0, 0, 0, Payload::NONE),
            Self::Ping(payload) => (Opcode::Ping, 0, 0, 0, Payload::Bytes(payload)),
            Self::Memory(MemoryOperation::Read(extent)) => {
                let length = extent.length() as u64;
                (Opcode::Read, extent.offset(), length, 0, Payload::NONE)
            }
            Self::Memory(MemoryOperation::Change(change)) => match change {
                MemoryChange::Write(extent, data) => {
                    (Opcode::Write, extent.offset(), 0, 0, Payload::Bytes(data))
                }
                MemoryChange::Fill(extent, byte) => {
                    let length = extent.length() as u64;
                    (Opcode::Fill, extent.offset(), length, byte, Payload::NONE)
                }
                MemoryChange::Atomic(word, atomic) => {
                    let (operand, payload) = atomic.operands();
                    (atomic.opcode(), word.offset(), operand, 0, payload)
                }
                MemoryChange::Copy { from, to } => {
                    let source = Payload::Number(from.offset().to_le_bytes());
                    (Opcode::Copy, to.offset(), to.length() as u64, 0, source)
                }
            },
        };
        // No payload is longer than MAX_PAYLOAD, a u32.
        #[allow(clippy::cast_possible_truncation)]
        let length = payload.as_ref().len() as u32;
        let header = RequestHeader {
            argument,
            payload: length.into(),
            offset: offset.into(),
            operand: operand.into(),
            ..RequestHeader::new(opcode, id)
        };
        (header, payload)
    }

    /// Appends header and payload of the request with this id to `buffer`.
    pub fn append_to(&self, id: u64, buffer: &mut Vec<u8>) {
        let (header, payload) = self.encode(id);
        buffer.extend_from_slice(header.as_bytes());
        buffer.extend_from_slice(payload.as_ref());
    }
}

#[cold]
fn unknown(opcode: u8) -> Refusal {
    let message = format!(
        "opcode {opcode} is not known; the highest is {}",
        OPERATIONS.len()
    );
    Refusal::new(Code::UnknownOpcode, message)
}

fn number(payload: &[u8]) -> Result<u64, Refusal> {
    payload.try_into().map(u64::from_le_bytes).map_err(|_| {
        Refusal::new(
            Code::BadRequest,
            "a number of 8 bytes is missing from the payload",
        )
    })
}
