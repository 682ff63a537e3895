//! What dsm promises to a program that uses the memory, over TCP and through the shared memory of a
//! server on the same host.

mod client_bad_server;
mod client_deadline;
mod client_exactly_once;
mod client_lost_packets;
mod client_memory_lost;
mod client_ranges;
mod connection_to_itself;
mod examples;
mod host_names;
mod local_crash;
mod local_crowd;
mod local_fallback;
mod local_fork;
mod local_freeze;
mod local_interrupted;
mod local_linearizability;
mod local_operation_log;
mod local_path;
mod local_permission;
mod mute_connection;
mod silent_resolver;
mod unknown_outcome;
