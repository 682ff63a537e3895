//! The wire format: frames and messages as pure functions of bytes. No I/O, no clock, no allocation
//! on the good path.
//!
//! `docs/protocol.md` is the specification; a test replays its examples against this module.

mod foreign;
mod frame;
mod hello;
mod refusal;
mod request;
mod state;
mod status;

pub use foreign::{Foreign, TELLING};
pub use frame::{
    HEADER, MAX_PAYLOAD, Opcode, ReplyHeader, RequestHeader, split_reply, split_request,
};
pub use hello::{HelloReply, HelloRequest, MAX_HELLO};
pub use refusal::{Code, MAX_REFUSAL_TEXT, Refusal};
pub use request::{AtomicOperation, Extent, Operation, Payload, Request, Word};
pub use state::{LoggedOperations, MemoryState};
pub use status::{
    Connections, LatencyBucket, LocalTraffic, OperationLogStatus, Recovery, Sessions, Status,
    Traffic,
};

/// The protocol version that this code speaks.
pub const VERSION: u32 = 1;

/// The most requests that a session may leave unanswered and still have each take effect exactly
/// once: the segment keeps the results of that many for a client that comes back.
pub const WINDOW: u64 = 64;
