//! The program dsm-snapshot.

mod arguments;
mod failure;
mod run;

pub use arguments::command;
pub use run::main;
