//! dsmd: serves one segment to the network. docs/design.md draws the life of a request and lists
//! the threads.

mod arguments;
mod buffer;
mod connection;
mod context;
mod detach;
mod executor;
mod failure;
mod gate_watcher;
mod heartbeat;
mod holders;
mod limits;
mod listener;
mod names;
mod notify;
pub mod operation_log;
mod reload;
mod reply;
mod request_handler;
mod run;
mod self_probe;
mod session;
mod shared_thread;
mod start;
mod startup_retry;
mod statistics;
mod threads;
mod watchdog;

pub use arguments::command;
pub use run::main;
