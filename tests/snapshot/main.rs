//! Tests of snapshots and restores with real servers and agents, and of the snapshot file.

mod snapshot_bad_agents;
mod snapshot_bad_masters;
mod snapshot_copy_area;
mod snapshot_damage;
mod snapshot_directory;
mod snapshot_disk;
mod snapshot_global_cut;
mod snapshot_kills;
mod snapshot_reader;
mod snapshot_restore;
mod snapshot_restore_confirmation;
mod snapshot_restore_cut_short;
mod snapshot_restore_layouts;
mod snapshot_restore_readers;
mod snapshot_round_trip;
mod snapshot_two_masters;
mod snapshot_waiting_memory;
mod snapshot_write_errors;
