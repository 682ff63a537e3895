//! dsmd: serves one segment to the network.

mod arguments;
mod buffer;
mod connection;
mod context;
mod conversation;
mod detach;
mod failure;
mod holders;
mod limits;
mod listener;
mod names;
mod notify;
pub mod operation_log;
mod patience;
mod probe;
mod pulse;
mod reload;
mod run;
mod session;
mod shared_thread;
mod start;
mod statistics;
mod supervisor;
mod threads;

pub use arguments::command;
pub use run::main;
