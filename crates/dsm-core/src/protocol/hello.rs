//! The handshake: versions, layout, identity, session.

use super::{Code, Refusal, VERSION, WINDOW};
use crate::layout::{Layout, MAX_ATOMIC, MAX_LAYOUT_TEXT};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The fixed part of the payload of a hello request. The canonical layout text follows it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct HelloRequest {
    /// The protocol version of the client.
    pub version: U32,
    /// The index of the server that the client expects.
    pub index: U32,
    /// The session's random id; never all zeros.
    pub session: [u8; 16],
    /// The incarnation that the client expects; zero for any.
    pub incarnation: U64,
    /// 1 when the client resumes a session, else 0.
    pub resume: U32,
    pub(super) reserved: U32,
}

/// The longest payload of a hello request, in bytes: that with the longest layout text. Before
/// hello, the server receives nothing longer.
pub const MAX_HELLO: usize = size_of::<HelloRequest>() + MAX_LAYOUT_TEXT;

impl HelloRequest {
    /// A hello to server `index`, with the incarnation that this client expects (zero for any).
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

    /// Splits a hello's payload into the fixed part and the layout text, and checks everything that
    /// does not depend on the segment: version, layout, index, and that the session has an id.
    ///
    /// # Errors
    /// The refusal to send, which names what differs.
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

    /// Checks the length of a hello's payload by its header, before any of it is received.
    ///
    /// # Errors
    /// The refusal to send, for more than [`MAX_HELLO`] bytes.
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
    /// The protocol version of this connection.
    pub version: U32,
    /// The server's index.
    pub index: U32,
    /// The incarnation of the segment; zero while it waits for a restore.
    pub incarnation: U64,
    /// Bytes of the segment.
    pub k: U64,
    /// The id of the last executed request of the session that changed, or could have changed, the
    /// memory; zero for none.
    pub last_executed: U64,
    /// The longest request, in bytes.
    pub max_atomic: U32,
    /// The most requests that may be unanswered.
    pub window: U32,
    /// 1 when the session was resumed, 0 when it is new.
    pub resumed: U32,
    /// Bits for what the server can do beyond this version of the protocol; none is defined yet. A
    /// client ignores the bits that it does not know.
    pub features: U32,
}

impl HelloReply {
    /// A reply with the state of the server and of the session.
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
            features: U32::ZERO,
        }
    }
}
