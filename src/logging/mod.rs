//! Where the messages of the services go.
//!
//! Messages are written with the macros of the `log` crate, and repairs of dead participants are
//! among them. Fields such as `DSM_SERVER = 1` become fields of the journal; elsewhere they stand
//! after the message.

mod destination;
mod event;
mod rate_limit;
mod journal;
mod repair;
mod syslog;
mod terminal;
mod text;

pub use destination::{Destination, flush, init, set_level};
pub use event::Event;
pub(crate) use rate_limit::LogGate;
