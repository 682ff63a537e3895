//! The code of the fuzz targets: each tests one input.

pub mod config;
pub mod protocol;
pub mod snapshot;
