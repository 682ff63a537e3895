//! Where the log messages of the services go: to the journal, to syslog or to standard error.
//!
//! The services log with the macros of the `log` crate. Repairs after dead participants are logged
//! too. Fields such as `DSM_SERVER = 1` become fields of the journal; elsewhere they follow the
//! message.

mod destination;
mod event;
mod journal;
mod rate_limit;
mod repair;
mod syslog;
mod terminal;
mod text;

pub use destination::{LogDestination, flush, init, set_level};
pub use event::Event;
pub(crate) use rate_limit::LogRateLimit;
