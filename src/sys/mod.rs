//! System calls that no crate wraps safely. With `segment/`, the only home of `unsafe`.
#![allow(unsafe_code)]

pub(crate) mod cancellation;
pub(crate) mod clock;
pub(crate) mod descriptors;
pub(crate) mod file_size;
#[cfg(test)]
pub(crate) mod forked;
pub(crate) mod incoming;
pub(crate) mod listening;
pub(crate) mod mapping;
pub(crate) mod memory_limit;
pub(crate) mod ofd;
pub(crate) mod own_file;
pub(crate) mod priority;
pub(crate) mod queue;
pub(crate) mod semaphore;
pub(crate) mod terminal;
pub(crate) mod writeback;
