//! The programs: `dsmd`, `dsm-snapshot` and `dsmctl`, which only call this library.

pub mod agent;
pub mod cli;
mod command_line;
mod help;
pub mod logging;
pub mod server;
