//! dsmd: serves one segment to the network. docs/design.md draws the life of a request and lists
//! the threads.

mod arguments;
mod buffer;
mod connection;
mod context;
mod request_handler;
mod detach;
mod executor;
mod failure;
mod holders;
mod limits;
mod listener;
mod names;
mod notify;
pub mod operation_log;
mod startup_retry;
mod self_probe;
mod heartbeat;
mod reload;
mod reply;
mod run;
mod session;
mod shared_thread;
mod start;
mod statistics;
mod watchdog;
mod threads;

pub use arguments::command;
pub use run::main;
