//! The protocol between a master and the agents, and the master's side of it.
//! `docs/agent-protocol.md` is its specification.

// Every error is an error of the socket, or says what the peer sent against the protocol. This
// comment says so once, instead of each function.
#![allow(clippy::missing_errors_doc)]

mod agent_connection;
mod error;
mod message_stream;
mod messages;
mod wire;

pub use agent_connection::{AgentConnection, TransferItem, is_hostname};
pub use error::{AgentError, FREEZE_TASK, RECEIVE_TASK};
pub use message_stream::{MessageStream, parse};
pub use messages::{
    AgentRequest, AgentResponse, LockId, LockPurpose, MAX_REQUEST, MAX_SHOWN_NAME, RefusalReason,
    StoredSnapshot,
};
pub use wire::{AgentMessage, MAX_DATA, send_data, send_frame};
