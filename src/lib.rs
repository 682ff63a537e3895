//! Distributed shared memory: N machines share k bytes of RAM each as one linear, byte-addressed memory.

pub mod cli;
pub mod client;
pub mod config;
mod help;
pub mod layout;
pub mod log;
mod printable;
pub mod protocol;
pub mod segment;
pub mod server;
pub mod snapshot;
mod sys;

pub use client::{Client, Error, Pipeline, Reply};
