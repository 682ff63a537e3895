//! An operation log has every operation: while it is on, local clients use TCP.

// The lint exempts #[test] functions, not the helpers that they call.
#![allow(clippy::unwrap_used)]

use dsm_client::{DataPath, LoggedOperations};
use nix::sys::signal::Signal;
use std::path::Path;
use support::wire::TEST_TIMEOUT;
use support::{Cluster, local_client, wait_for};

const K: u64 = 1 << 20;

/// Writes the mcomp.cfg of a cluster: `text`, and an operation log in the cluster's folder.
fn set_log(cluster: &Cluster, text: &str, operations: &str) {
    let log = format!(
        "{text}\n[log]\noperations = {operations:?}\ndirectory = \"{}\"\n",
        cluster.directory().display()
    );
    std::fs::write(cluster.config_path(), log).unwrap();
}

fn lines(directory: &Path, words: &str) -> usize {
    let text = std::fs::read_to_string(directory.join("operations-0.log")).unwrap_or_default();
    text.lines().filter(|line| line.contains(words)).count()
}

#[test]
fn operations_of_a_local_program_are_logged_as_soon_as_the_operation_log_is_on() {
    let cluster = Cluster::builder().k(K).create();
    let text = std::fs::read_to_string(cluster.config_path()).unwrap();
    set_log(&cluster, &text, "all");
    cluster.start_server(0);
    let client = local_client(&cluster);
    assert_eq!(client.data_path(0).unwrap(), DataPath::Tcp);
    client.write(4096, b"x").unwrap();
    wait_for("the write to be logged", TEST_TIMEOUT, || {
        lines(cluster.directory(), " write 0x0000000000001000 1 ok") == 1
    });

    set_log(&cluster, &text, "off");
    cluster.signal(0, Signal::SIGHUP);
    wait_for("the client to be local", TEST_TIMEOUT, || {
        client.data_path(0).unwrap() == DataPath::Local
    });
    client.write(8192, b"x").unwrap();

    // On again: from the moment at which the server reports it, the log has every operation.
    set_log(&cluster, &text, "writes");
    cluster.signal(0, Signal::SIGHUP);
    let mode = || client.status(0).unwrap().operation_log.mode;
    wait_for("the log to be on again", TEST_TIMEOUT, || {
        mode() == LoggedOperations::Writes
    });
    for page in 3..103 {
        client.write(page * 4096, b"x").unwrap();
    }
    wait_for("each write to be logged", TEST_TIMEOUT, || {
        lines(cluster.directory(), " write ") == 101
    });
    assert_eq!(client.data_path(0).unwrap(), DataPath::Tcp);
    assert_eq!(client.status(0).unwrap().local.writes, 1);
}

#[test]
fn a_log_that_is_turned_on_while_dsmd_is_dead_disables_local_access_when_dsmd_starts() {
    let cluster = Cluster::start(1, K);
    let client = local_client(&cluster);
    client.write(0, b"x").unwrap();
    cluster.kill(0);
    client.write(0, b"y").unwrap();
    let text = std::fs::read_to_string(cluster.config_path()).unwrap();
    set_log(&cluster, &text, "writes");
    cluster.start_server(0);
    client.write(4096, b"z").unwrap();
    wait_for("the write to be logged", TEST_TIMEOUT, || {
        lines(cluster.directory(), " write 0x0000000000001000 1 ok") == 1
    });
    assert_eq!(client.status(0).unwrap().local.writes, 2);
}
