//! Frames: a fixed header of 32 bytes, then a payload. All integers are little-endian.

use super::{Code, Foreign, Opcode, PROTOCOL_PREFIX, Refusal};
use crate::layout::MAX_ATOMIC;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a request or reply header.
pub const HEADER: usize = 32;

/// The longest payload of any frame, in bytes. The longest write has this payload.
#[allow(clippy::cast_possible_truncation)] // 1 MiB
pub const MAX_PAYLOAD: u32 = MAX_ATOMIC as u32;

/// The first two bytes of a request: "DQ".
pub(super) const REQUEST_MAGIC: [u8; 2] = *b"DQ";

/// The first two bytes of a reply: "DR".
pub(super) const REPLY_MAGIC: [u8; 2] = *b"DR";

/// The header of a request. No field is trusted before [`super::Request::parse`] has checked it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct RequestHeader {
    pub(super) magic: [u8; 2],
    /// The number of an [`Opcode`].
    pub opcode: u8,
    /// The byte of a fill; zero otherwise.
    pub argument: u8,
    /// Bytes after the header.
    pub payload: U32,
    /// The id of the request, greater than that of the previous one of the connection. The reply
    /// has the same id.
    pub id: U64,
    /// First byte, as an offset into the segment.
    pub offset: U64,
    /// Length of a read, fill or copy; operand of an atomic.
    pub operand: U64,
}

impl RequestHeader {
    /// A header for `opcode` with the other fields zero.
    #[must_use]
    pub fn new(opcode: Opcode, id: u64) -> Self {
        Self {
            magic: REQUEST_MAGIC,
            opcode: opcode as u8,
            argument: 0,
            payload: U32::ZERO,
            id: U64::new(id),
            offset: U64::ZERO,
            operand: U64::ZERO,
        }
    }

    /// The name of the opcode, or "unknown".
    #[must_use]
    pub fn operation_name(&self) -> &'static str {
        Opcode::from_number(self.opcode).map_or("unknown", Opcode::name)
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
    pub(super) const NONE: Self = Self::Bytes(&[]);
}

impl AsRef<[u8]> for Payload<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Number(number) => number,
        }
    }
}

/// The header of a reply.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ReplyHeader {
    pub(super) magic: [u8; 2],
    /// The opcode of the request.
    pub opcode: u8,
    pub(super) reserved: u8,
    /// Bytes after the header: data, or the text of a refusal.
    pub payload: U32,
    /// The id of the request.
    pub id: U64,
    /// Zero, or the number of a [`Code`].
    pub code: U16,
    pub(super) reserved_too: [u8; 6],
    /// The old value, for an atomic; zero otherwise.
    pub value: U64,
}

impl ReplyHeader {
    /// The header of a reply to the request with this opcode and id.
    #[must_use]
    pub fn new(opcode: u8, id: u64, payload: u32, value: u64) -> Self {
        Self {
            magic: REPLY_MAGIC,
            opcode,
            reserved: 0,
            payload: U32::new(payload),
            id: U64::new(id),
            code: U16::ZERO,
            reserved_too: [0; 6],
            value: U64::new(value),
        }
    }

    /// The header of a refusal whose text has `payload` bytes.
    #[must_use]
    pub fn refusal(opcode: u8, id: u64, code: Code, payload: u32) -> Self {
        Self {
            code: U16::new(code as u16),
            ..Self::new(opcode, id, payload, 0)
        }
    }
}

const _: () = assert!(size_of::<RequestHeader>() == HEADER && size_of::<ReplyHeader>() == HEADER);

/// Splits off the request header at the start of `bytes`; `None` when fewer than [`HEADER`] bytes
/// are there and they may be the beginning of one.
///
/// # Errors
/// [`Code::BadFrame`] when the framing cannot be trusted.
#[inline]
pub fn split_request(bytes: &[u8]) -> Result<Option<(RequestHeader, &[u8])>, Refusal> {
    let Ok((header, rest)) = RequestHeader::read_from_prefix(bytes) else {
        return if bytes.len() < PROTOCOL_PREFIX {
            Ok(None)
        } else {
            check_begun(bytes, REQUEST_MAGIC)
        };
    };
    if header.magic != REQUEST_MAGIC || header.payload.get() > MAX_PAYLOAD {
        return Err(bad_frame(
            bytes,
            header.magic,
            REQUEST_MAGIC,
            header.payload.get(),
        ));
    }
    Ok(Some((header, rest)))
}

/// Splits off the reply header at the start of `bytes`; `None` when fewer than [`HEADER`] bytes are
/// there and they may be the beginning of one.
///
/// # Errors
/// [`Code::BadFrame`] when the framing cannot be trusted.
pub fn split_reply(bytes: &[u8]) -> Result<Option<(ReplyHeader, &[u8])>, Refusal> {
    let Ok((header, rest)) = ReplyHeader::read_from_prefix(bytes) else {
        return if bytes.len() < PROTOCOL_PREFIX {
            Ok(None)
        } else {
            check_begun(bytes, REPLY_MAGIC)
        };
    };
    if header.magic != REPLY_MAGIC || header.payload.get() > MAX_PAYLOAD {
        return Err(bad_frame(
            bytes,
            header.magic,
            REPLY_MAGIC,
            header.payload.get(),
        ));
    }
    Ok(Some((header, rest)))
}

/// Checks an incomplete header. A foreign message that is shorter than a header, such as the alert
/// of a TLS server, would otherwise be waited for in vain.
#[cold]
fn check_begun<T>(bytes: &[u8], expected: [u8; 2]) -> Result<Option<T>, Refusal> {
    match bytes.first_chunk() {
        Some(found) if *found != expected => Err(not_ours(bytes, *found, expected)),
        _ => Ok(None),
    }
}

#[cold]
fn not_ours(bytes: &[u8], found: [u8; 2], expected: [u8; 2]) -> Refusal {
    let told = match Foreign::recognise(bytes) {
        Some(foreign) => foreign.to_string(),
        None => "this is not the dsm protocol, or framing was lost".to_owned(),
    };
    let message = format!(
        "the frame begins with {:02x} {:02x}, not {:02x} {:02x}: {told}",
        found[0], found[1], expected[0], expected[1]
    );
    Refusal::new(Code::BadFrame, message)
}

/// The refusal for a header with a wrong magic or a payload that is too long.
#[cold]
fn bad_frame(bytes: &[u8], found: [u8; 2], expected: [u8; 2], payload: u32) -> Refusal {
    if found != expected {
        return not_ours(bytes, found, expected);
    }
    let message =
        format!("the frame claims a payload of {payload} bytes; the longest is {MAX_PAYLOAD}");
    Refusal::new(Code::BadFrame, message)
}
