//! Code shared by the load programs of the benchmarks.

pub mod pattern;
