//! What each fuzz target does with its input.

pub mod config;
pub mod protocol;
pub mod snapshot;
