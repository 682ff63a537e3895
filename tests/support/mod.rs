//! What the integration tests share: real servers on loopback, started, killed and cleaned up after.
// Each test binary uses its own part of this.
#![allow(dead_code, unreachable_pub, unused_imports)]

pub mod agents;
pub mod block;
pub mod cgroup;
pub mod clients;
pub mod cluster;
pub mod dsmctl;
pub mod messages;
pub mod namespace;
pub mod other_user;
pub mod process;
pub mod program;
pub mod random;
pub mod restores;
pub mod ring;
pub mod segment;
pub mod service;
pub mod skip;
pub mod snapshots;
pub mod wire;

pub use clients::client_of;
pub use cluster::{Builder, Cluster};

use std::time::{Duration, Instant};

/// Waits until `condition` holds, looking again every few milliseconds.
///
/// # Panics
/// When it does not hold within `deadline`; the message says `what` was awaited.
pub fn wait_for(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {deadline:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A client of its own for the memory of `cluster`, over TCP.
pub fn client(cluster: &Cluster) -> dsm_client::Client {
    client_of(cluster.layout().clone())
}

/// A client of its own for the memory of `cluster`, which uses the servers' shared memory where it may.
pub fn local_client(cluster: &Cluster) -> dsm_client::Client {
    dsm_client::Client::with_layout(cluster.layout().clone())
}
