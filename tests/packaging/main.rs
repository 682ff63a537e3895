//! The packaged files work, the documents agree with the programs, and the repository keeps its own
//! rules.

mod fuzz_on_stable;
mod man_config;
mod man_dsm_snapshot;
mod man_dsmd;
mod packaged_config;
mod readme;
mod repository;
mod systemd_messages;
