//! Distributed shared memory: N machines share k bytes of RAM each as one linear, byte-addressed memory.

pub mod client;
pub mod layout;
pub mod protocol;
pub mod segment;
mod sys;

pub use client::{Client, Error, Pipeline, Reply};
