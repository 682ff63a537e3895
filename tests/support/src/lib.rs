//! Helpers of the tests: real servers on loopback that are killed and removed at the end, fake
//! peers that misbehave, and checkers of the observed results.
// clippy.toml allows `unwrap` in tests, but not in their helpers.
#![allow(clippy::unwrap_used)]

pub mod agents;
pub mod block;
pub mod cgroup;
pub mod clients;
pub mod cluster;
pub mod counts;
pub mod dsmctl;
pub mod examples;
pub mod fake_agent;
pub mod fake_server;
pub mod linearizability;
pub mod messages;
pub mod namespace;
pub mod other_user;
pub mod own_process;
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

pub use clients::{client_of, is_error};
pub use cluster::{Builder, Cluster};

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Waits until `condition` holds, and checks it every few milliseconds.
///
/// # Panics
/// When the condition does not hold within `deadline`. The message begins with `what`.
pub fn wait_for(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {deadline:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A lock for tests that load the machine fully, or measure under load: only one of them runs at a
/// time.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A new client of the memory of `cluster`, which uses TCP.
pub fn client(cluster: &Cluster) -> dsm_client::Client {
    client_of(cluster.layout().clone())
}

/// A new client of the memory of `cluster`, which uses the servers' shared memory if it may.
pub fn local_client(cluster: &Cluster) -> dsm_client::Client {
    dsm_client::Client::with_layout(cluster.layout().clone())
}
