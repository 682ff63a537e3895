//! The numbered errors of the wire.

use crate::printable::printable_bytes;
use std::fmt;

/// The longest text of a refusal, in bytes.
pub const MAX_REFUSAL_TEXT: usize = 4096;

/// Why a server refuses a request: the number in the `code` of a reply header. Zero is success.
///
/// A refusal that depends only on the request and the layout leaves the connection open. Every
/// other one closes it, so that no later request of the session can overtake the refused one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum Code {
    /// The frame's magic is wrong, or its payload is longer than that of any request: the frame
    /// boundaries are lost.
    BadFrame = 1,
    /// The server does not support the protocol version.
    Version = 2,
    /// The two sides' mcomp.cfg differ.
    LayoutDiffers = 3,
    /// The server has another index than the client expects.
    WrongServer = 4,
    /// The segment has another incarnation than the client expects: its contents were lost.
    MemoryLost = 5,
    /// A request came before hello, or a second hello.
    HelloExpected = 6,
    /// The opcode is unknown.
    UnknownOpcode = 7,
    /// The range is not inside the segment.
    OutOfRange = 8,
    /// An atomic's offset is not a multiple of eight.
    Unaligned = 9,
    /// The length is over `MAX_ATOMIC`.
    TooLong = 10,
    /// A field that must be zero is not, or the payload's length does not fit the opcode.
    BadRequest = 11,
    /// The request's id is not above the ones before it, or is outside the window, or the server no
    /// longer keeps the old value of an atomic that was sent again: it carried that one out before.
    BadSequence = 12,
    /// The server has as many connections as `limits.connections` allows.
    TooManyConnections = 13,
    /// The server is stopping; a new one will replace it.
    Stopping = 14,
    /// A newer connection uses the session.
    Superseded = 15,
    /// A request did not arrive completely within `limits.request_timeout`, or hello within
    /// `limits.hello_timeout`.
    TooSlow = 16,
    /// The server's buffer memory, `limits.buffer_memory`, is in use; or a process on the server's
    /// host, most likely a stopped one, holds the pages; or every session has a connection.
    Busy = 17,
    /// An error inside the server, which the request did not cause.
    Internal = 18,
    /// The memory is closed: it waits for a restore, or is being restored.
    Restoring = 19,
}

impl Code {
    /// Every code, in the order of the numbers.
    pub const ALL: &'static [Self] = &[
        Self::BadFrame,
        Self::Version,
        Self::LayoutDiffers,
        Self::WrongServer,
        Self::MemoryLost,
        Self::HelloExpected,
        Self::UnknownOpcode,
        Self::OutOfRange,
        Self::Unaligned,
        Self::TooLong,
        Self::BadRequest,
        Self::BadSequence,
        Self::TooManyConnections,
        Self::Stopping,
        Self::Superseded,
        Self::TooSlow,
        Self::Busy,
        Self::Internal,
        Self::Restoring,
    ];

    /// The code with this number.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|code| *code as u16 == number)
    }

    /// The name in logs and documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BadFrame => "bad-frame",
            Self::Version => "version",
            Self::LayoutDiffers => "layout-differs",
            Self::WrongServer => "wrong-server",
            Self::MemoryLost => "memory-lost",
            Self::HelloExpected => "hello-expected",
            Self::UnknownOpcode => "unknown-opcode",
            Self::OutOfRange => "out-of-range",
            Self::Unaligned => "unaligned",
            Self::TooLong => "too-long",
            Self::BadRequest => "bad-request",
            Self::BadSequence => "bad-sequence",
            Self::TooManyConnections => "too-many-connections",
            Self::Stopping => "stopping",
            Self::Superseded => "superseded",
            Self::TooSlow => "too-slow",
            Self::Busy => "busy",
            Self::Internal => "internal",
            Self::Restoring => "restoring",
        }
    }

    /// Whether the server closes the connection after this refusal.
    #[must_use]
    pub fn closes(self) -> bool {
        !matches!(
            self,
            Self::UnknownOpcode
                | Self::OutOfRange
                | Self::Unaligned
                | Self::TooLong
                | Self::BadRequest
        )
    }
}

/// A refusal with its text for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The number on the wire.
    pub code: Code,
    /// What was found, what is allowed, and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal with a message.
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        Self {
            code,
            message: message.to_string(),
        }
    }

    /// A refusal received from a server. The text is sanitised.
    #[must_use]
    pub fn received(code: Code, text: &[u8]) -> Self {
        Self {
            code,
            message: printable_bytes(text, MAX_REFUSAL_TEXT),
        }
    }
}
