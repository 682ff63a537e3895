//! The handshake: versions, layout, identity, session.

use super::{Code, Refusal, VERSION, WINDOW};
use crate::layout::{Layout, MAX_ATOMIC, MAX_LAYOUT_TEXT};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The payload of a hello request, before the canonical layout text.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct HelloRequest {
    /// The protocol version that the client speaks.
    pub version: U32,
    /// The index of the server that the client wants.
    pub index: U32,
    /// The session's random id; never all zeros.
    pub session: [u8; 16],
    /// The incarnation that the client knows; zero for none.
    pub incarnation: U64,
    /// 1 when the client comes back to a session that it used before, else 0.
    pub resume: U32,
    pub(super) reserved: U32,
}

/// The longest payload of a hello request, in bytes: with the text of the longest layout. Before
/// hello, nothing longer need be received.
pub const MAX_HELLO: usize = size_of::<HelloRequest>() + MAX_LAYOUT_TEXT;

impl HelloRequest {
    /// A hello to server `index`, with the incarnation that this client knows (zero for none).
    #[must_use]
    pub fn new(index: u32, session: [u8; 16], incarnation: u64, resume: bool) -> Self {
        Self {
            version: U32::new(VERSION),
            index: U32::new(index),
            session,
            incarnation: U64::new(incarnation),
            resume: U32::new(u32::from(resume)),
            reserved: U32::ZERO,
        }
    }

    /// Takes the fixed part and the layout text out of a hello's payload, and checks what needs no
    /// knowledge of the segment: version, layout, index, and that the session has an id.
    ///
    /// # Errors
    /// The refusal to send back; it names what differs.
    pub fn parse<'a>(
        payload: &'a [u8],
        layout: &Layout,
        index: u32,
    ) -> Result<(Self, &'a str), Refusal> {
        Self::check_length(payload.len())?;
        let (hello, text) = Self::read_from_prefix(payload).map_err(|_| {
            let message = format!(
                "hello has {} bytes of payload; at least {} are needed",
                payload.len(),
                size_of::<Self>()
            );
            Refusal::new(Code::BadFrame, message)
        })?;
        if hello.version.get() != VERSION {
            let message = format!(
                "the client speaks protocol version {}, this server version {VERSION}: install the same release of dsm on both",
                hello.version
            );
            return Err(Refusal::new(Code::Version, message));
        }
        let text = std::str::from_utf8(text).map_err(|_| {
            Refusal::new(Code::LayoutDiffers, "the client's layout text is not UTF-8")
        })?;
        let differences = layout.differences(text);
        if !differences.is_empty() {
            let message = format!(
                "mcomp.cfg differs between server (ours) and client (theirs): {}. Install the same file on every machine",
                differences.join("; ")
            );
            return Err(Refusal::new(Code::LayoutDiffers, message));
        }
        if hello.index.get() != index {
            let message = format!(
                "the client wants server {}, but this is server {index}: the network map leads to the wrong machine",
                hello.index
            );
            return Err(Refusal::new(Code::WrongServer, message));
        }
        if hello.session == [0; 16] || hello.resume.get() > 1 || hello.reserved != U32::ZERO {
            return Err(Refusal::new(
                Code::BadFrame,
                "hello needs a session id that is not zero, resume 0 or 1, reserved 0",
            ));
        }
        Ok((hello, text))
    }

    /// Checks what a header says of the payload of a hello, before any of it is received.
    ///
    /// # Errors
    /// The refusal to send back, for more than [`MAX_HELLO`] bytes.
    pub fn check_length(payload: usize) -> Result<(), Refusal> {
        if payload > MAX_HELLO {
            let message = format!(
                "hello has {payload} bytes of payload; with the longest layout it has {MAX_HELLO}"
            );
            return Err(Refusal::new(Code::BadFrame, message));
        }
        Ok(())
    }
}

/// The payload of the reply to hello.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct HelloReply {
    /// The protocol version of this conversation.
    pub version: U32,
    /// The server's index.
    pub index: U32,
    /// The random id of the segment's contents; zero while they wait for a restore.
    pub incarnation: U64,
    /// Bytes of the segment.
    pub k: U64,
    /// The id of the last request of the session that changed, or could have changed, the memory;
    /// zero for none.
    pub last_executed: U64,
    /// The longest request, in bytes.
    pub max_atomic: U32,
    /// The most requests to leave unanswered.
    pub window: U32,
    /// 1 when the session was known, 0 when it is new.
    pub resumed: U32,
    pub(super) reserved: U32,
}

impl HelloReply {
    /// What the server says of itself and of the session.
    #[must_use]
    pub fn new(index: u32, incarnation: u64, k: u64, last_executed: u64, resumed: bool) -> Self {
        // Both are small constants.
        #[allow(clippy::cast_possible_truncation)]
        let (max_atomic, window) = (MAX_ATOMIC as u32, WINDOW as u32);
        Self {
            version: U32::new(VERSION),
            index: U32::new(index),
            incarnation: U64::new(incarnation),
            k: U64::new(k),
            last_executed: U64::new(last_executed),
            max_atomic: U32::new(max_atomic),
            window: U32::new(window),
            resumed: U32::new(u32::from(resumed)),
            reserved: U32::ZERO,
        }
    }
}
