//! What the shared memory of one server promises to the processes that have it mapped.

mod segment_concurrency;
mod segment_crash;
mod segment_cut;
