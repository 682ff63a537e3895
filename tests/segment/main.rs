//! The promises of one server's shared memory to the processes that have it mapped.

mod segment_concurrency;
mod segment_crash;
mod segment_cut;
mod upgrade;
