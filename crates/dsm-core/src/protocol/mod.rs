//! The wire format: frames and messages as pure functions of bytes. No I/O and no clock; no
//! allocation unless a request is refused.
//!
//! `docs/protocol.md` is the specification; a test replays its examples against this module.

mod atomic;
mod extent;
mod foreign;
mod frame;
mod hello;
mod operation;
#[cfg(test)]
mod operation_properties;
mod refusal;
mod state;
mod status;

pub use atomic::AtomicOperation;
pub use extent::{Extent, Word};
pub use foreign::{Foreign, PROTOCOL_PREFIX};
pub use frame::{
    HEADER, MAX_PAYLOAD, Payload, ReplyHeader, RequestHeader, split_reply, split_request,
};
pub use hello::{HelloReply, HelloRequest, MAX_HELLO};
pub use operation::{
    MemoryChange, MemoryOperation, MemoryRange, OPERATIONS, Opcode, OperationEntry, PayloadShape,
    Request, RequiredRole,
};
pub use refusal::{Code, MAX_REFUSAL_TEXT, Refusal};
pub use state::{LoggedOperations, MemoryState};
pub use status::{
    Connections, LatencyBucket, LocalTraffic, OperationLogStatus, Recovery, Sessions, Status,
    Traffic,
};

/// The protocol version of this code.
pub const VERSION: u32 = 1;

/// The most unanswered requests of a session of which each still takes effect exactly once: the
/// segment keeps this many results for a client that reconnects.
pub const WINDOW: u64 = 64;
