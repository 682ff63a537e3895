//! Tests of dsmctl, and of the configuration file that all programs read.

mod completions;
mod config_errors;
mod config_mismatch;
mod config_never_panics;
mod dsmctl_bench;
mod dsmctl_exit_codes;
mod dsmctl_memory;
mod dsmctl_snapshot;
mod dsmctl_snapshot_diff;
mod dsmctl_snapshot_export;
mod dsmctl_transfer;
mod man_dsmctl;
