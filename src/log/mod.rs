//! Where dsmd's messages go, and the operation log.
//!
//! Messages are written with the macros of the `log` crate, which is `::log` inside this crate. Fields such as
//! `DSM_SERVER = 1` become fields of the journal; elsewhere they stand after the message.

mod destination;
mod event;
mod gate;
mod journal;
mod operations;
mod syslog;
mod terminal;
mod text;

pub use destination::{Destination, flush, init, set_level};
pub use event::Event;
pub(crate) use gate::LogGate;
pub use operations::{Entry, OperationLog};
