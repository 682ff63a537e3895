//! A local client continues while its server is dead. Where its server does not allow local access,
//! it uses TCP, and gets the same answer as every other client.

// The lint exempts #[test] functions, not the helpers that they call.
#![allow(clippy::unwrap_used)]

use dsm_client::{Client, DataPath, ErrorKind, Reply};
use dsm_core::layout::Layout;
use dsm_core::segment::{Found, Segment, Start};
use nix::sys::signal::Signal;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};
use support::program::ChildProgram;
use support::restores::TEST_TIMEOUT;
use support::{Cluster, client, is_error, local_client, wait_for};

const K: u64 = 1 << 20;

fn is_local(client: &Client) -> bool {
    client.data_path(0).unwrap() == DataPath::Local
}

fn wait_until_local(client: &Client) {
    wait_for("the client to be local again", TEST_TIMEOUT, || {
        is_local(client)
    });
}

/// The server, started with --reset, which deletes its memory.
fn reset(cluster: &Cluster) -> ChildProgram {
    let reset = ChildProgram::new(
        "dsmd --reset".to_owned(),
        cluster.directory().join("stderr.reset"),
    );
    reset.spawn(cluster.command(0).arg("--reset"));
    reset.wait_until_ready(cluster.address(0));
    reset
}

fn assert_lost(client: &Client, server: usize) {
    for error in [
        client.read(0, 8).unwrap_err(),
        client.write(0, b"x").unwrap_err(),
        client.swap(0, 1).unwrap_err(),
    ] {
        assert!(is_error(&error, ErrorKind::MemoryLost, server), "{error:?}");
    }
}

#[test]
fn a_stopped_server_is_unavailable_until_it_is_started() {
    let cluster = Cluster::start(1, K);
    let local = local_client(&cluster).with_timeout(Duration::from_millis(400));
    local.write(0, b"before").unwrap();
    assert!(is_local(&local));
    assert!(cluster.stop(0).success());
    let began = Instant::now();
    for error in [
        local.read(0, 6).unwrap_err(),
        local.write(0, b"during").unwrap_err(),
    ] {
        assert!(is_error(&error, ErrorKind::Unavailable, 0), "{error:?}");
    }
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    cluster.start_server(0);
    assert_eq!(
        local.with_timeout(TEST_TIMEOUT).read(0, 6).unwrap(),
        b"before"
    );
    let local = local_client(&cluster);
    wait_until_local(&local);
    assert_eq!(local.read(0, 6).unwrap(), b"before");
}

#[test]
fn a_local_client_continues_while_its_server_is_dead() {
    let cluster = Cluster::start(1, K);
    let local = local_client(&cluster);
    local.write(0, b"before").unwrap();
    cluster.kill(0);
    local.write(0, b"during").unwrap();
    assert_eq!(local.read(0, 6).unwrap(), b"during");
    // A new client cannot know whether the server will start again, and waits for it.
    assert!(!is_local(&local_client(&cluster)));
    cluster.start_server(0);
    assert_eq!(client(&cluster).read(0, 6).unwrap(), b"during");
    local.write(0, b"after.").unwrap();
    assert_eq!(client(&cluster).read(0, 6).unwrap(), b"after.");
}

#[test]
fn a_pipeline_that_used_tcp_before_reports_a_request_done_in_shared_memory_as_ready() {
    let cluster = Cluster::start(1, K);
    cluster.kill(0);
    // The client finds no server, and uses TCP.
    let client = local_client(&cluster).with_timeout(TEST_TIMEOUT);
    let mut pipeline = client.pipeline();
    pipeline.write(0, b"by TCP").unwrap();
    assert!(!pipeline.is_next_ready());
    cluster.start_server(0);
    assert_eq!(pipeline.next().unwrap().unwrap(), Reply::Done);
    wait_until_local(&client);
    pipeline.read(0, 6).unwrap();
    assert!(pipeline.is_next_ready());
    assert_eq!(
        pipeline.next().unwrap().unwrap(),
        Reply::Data(b"by TCP".to_vec())
    );
}

#[test]
fn a_local_client_reports_memory_that_is_reset_or_restored_as_lost() {
    let cluster = Cluster::start(1, K);
    cluster.start_agents();
    let local = local_client(&cluster);
    local.write(0, b"precious").unwrap();
    let file = cluster.snapshot();
    assert_eq!(cluster.restore(file.path(), "--yes").code, 0);
    assert_lost(&local, 0);
    local.accept_memory_loss(0);
    assert_eq!(local.read(0, 8).unwrap(), b"precious");
    wait_until_local(&local);

    // The server was killed before the reset, so no process has told the local clients.
    cluster.kill(0);
    assert_eq!(local.read(0, 8).unwrap(), b"precious");
    let _reset = reset(&cluster);
    assert_lost(&local, 0);
    local.accept_memory_loss(0);
    assert_eq!(local.read(0, 8).unwrap(), [0; 8]);
    assert!(is_local(&local));
}

#[test]
fn local_clients_notice_a_reset_to_another_k() {
    let cluster = Cluster::start(1, K);
    let local = local_client(&cluster).with_timeout(Duration::from_secs(2));
    local.write(0, b"precious").unwrap();
    cluster.kill(0);
    let text = std::fs::read_to_string(cluster.config_path()).unwrap();
    std::fs::write(
        cluster.config_path(),
        text.replace(&format!("k = {K}"), &format!("k = {}", 2 * K)),
    )
    .unwrap();
    let _reset = reset(&cluster);
    let error = local.write(0, b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LayoutDiffers, "{error:?}");
}

#[test]
fn local_clients_notice_memory_that_was_removed_while_the_server_was_dead() {
    let cluster = Cluster::start(1, K);
    let local = local_client(&cluster);
    local.write(0, b"precious").unwrap();
    cluster.kill(0);
    cluster.forget(0);
    cluster.start_server(0);
    wait_for("the loss to be reported", Duration::from_secs(1), || {
        local.read(0, 8).is_err()
    });
    assert_lost(&local, 0);
}

#[test]
fn a_server_of_another_layout_refuses_a_local_client() {
    let cluster = Cluster::start(1, K);
    let local = local_client(&cluster).with_timeout(Duration::from_secs(2));
    local.write(0, b"x").unwrap();
    let other = Layout::new(cluster.name(), K, vec!["127.0.0.1:9".to_owned()]).unwrap();
    assert_eq!(
        Client::with_layout(other.clone()).data_path(0).unwrap(),
        DataPath::Tcp,
        "the client has another map"
    );

    cluster.kill(0);
    let mut progress = |_, _| ControlFlow::Continue(());
    let opened = Segment::serve(&other, 0, Start::Serve, &mut progress).unwrap();
    assert_eq!(
        opened.found,
        Found::Segment {
            layout_changed: true
        }
    );
    let fingerprint = other.segment_fingerprint(0);
    opened.segment.enable_local_access(fingerprint);
    let error = local.write(0, b"y").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert_eq!(local.data_path(0).unwrap(), DataPath::Tcp);
}

#[test]
fn a_map_that_grows_keeps_its_local_clients() {
    let cluster = Cluster::start(1, K);
    let local = local_client(&cluster).with_timeout(Duration::from_secs(2));
    local.write(0, b"before").unwrap();
    let addresses = vec![cluster.address(0).to_owned(), "127.0.0.1:9".to_owned()];
    let grown = Client::with_layout(Layout::new(cluster.name(), K, addresses).unwrap());
    assert_eq!(grown.data_path(0).unwrap(), DataPath::Local);
    assert_eq!(grown.read(0, 6).unwrap(), b"before");

    cluster.kill(0);
    change_config(&cluster, "n = 1", "n = 2");
    let second = "\n[[server]]\naddress = \"127.0.0.1:9\"\n\n[snapshot]";
    change_config(&cluster, "\n[snapshot]", second);
    cluster.start_server(0);
    local.write(0, b"behind").unwrap();
    assert_eq!(local.data_path(0).unwrap(), DataPath::Local);
    assert_eq!(grown.read(0, 6).unwrap(), b"behind");
    cluster.signal(0, Signal::SIGTERM);
    cluster.wait(0);
}

fn change_config(cluster: &Cluster, from: &str, to: &str) {
    let path = cluster.config_path();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&path, text.replace(from, to)).unwrap();
}
