//! What dsmd promises: its protocol, its limits, its start and its end, and the memory that
//! outlives it.

mod client_that_never_reads;
mod failed_start;
mod full_shm;
mod graceful_stop;
mod handshake_order;
mod hostile_peers;
mod independent_client;
mod kill_dsmd_under_load;
mod linearizability;
mod linearizability_checker;
mod long_writes;
mod malformed_frames;
mod memory_loss_policies;
mod memory_lost;
mod operation_log;
mod operation_log_in_service;
mod protocol_examples;
mod protocol_live;
mod reload;
mod second_dsmd;
mod shared_threads;
mod signals_during_start;
mod slow_reader;
mod slow_sender;
mod stale_object;
mod too_many_connections;
