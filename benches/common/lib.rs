//! What several loads of the benchmarks have in common.

pub mod pattern;
