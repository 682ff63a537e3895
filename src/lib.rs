//! The implementation of the programs `dsmd`, `dsm-snapshot` and `dsmctl`. Each of their `main`
//! functions only calls this library.

pub mod agent;
pub mod cli;
mod command_line;
mod help;
pub mod logging;
pub mod server;
