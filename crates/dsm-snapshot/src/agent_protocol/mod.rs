//! What a master and an agent say to each other, and the master's end of it.

// Every error is that of the socket, or says that the other side has sent what it may not: the
// modules say so once.
#![allow(clippy::missing_errors_doc)]

mod connection;
mod link;
mod wire;

pub use connection::{Connection, parse};
pub use link::{AgentError, FREEZE, Link, Part, RECEIVE, is_hostname};
pub use wire::{
    Answer, Ask, ClaimId, Held, MAX_ASK, MAX_DATA, MAX_SHOWN_NAME, Message, Purpose, Reason,
    send_data, send_frame,
};
