//! After an error that leaves an outcome unknown, the next call of the same client shows the final
//! state: the server executes nothing of the change afterwards.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use dsm_client::{Client, ErrorKind, Reply};
use dsm_core::segment::Segment;
use nix::sys::signal::Signal;
use std::thread::sleep;
use std::time::{Duration, Instant};
use support::clients::client_of;
use support::fake_server::servers;
use support::process::state;
use support::restores::TEST_TIMEOUT;
use support::{Cluster, client, is_error, wait_for};

const K: u64 = 64 * 4096;

/// The deadline of the call whose outcome becomes unknown.
const TIMEOUT: Duration = Duration::from_millis(150);

/// How long the memory is watched for a change that comes after the read.
const WATCHED: Duration = Duration::from_millis(400);

/// Adds to the word at 0 with a deadline that passes before the reply comes.
fn add_in_vain(client: &Client) {
    let error = client
        .clone()
        .with_timeout(TIMEOUT)
        .fetch_add(0, 1)
        .unwrap_err();
    assert!(is_error(&error, ErrorKind::OutcomeUnknown, 0), "{error}");
}

/// Reads the word at 0, and fails if it changes after that.
fn read_for_good(cluster: &Cluster, client: &Client) {
    stays(cluster, &client.read(0, 8).unwrap());
}

/// Fails if the word at 0 is not, or does not stay, as it was found.
fn stays(cluster: &Cluster, found: &[u8]) {
    let (other, end) = (support::client(cluster), Instant::now() + WATCHED);
    while Instant::now() < end {
        assert_eq!(
            other.read(0, 8).unwrap(),
            found,
            "it changed after the read"
        );
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_read_after_an_unknown_outcome_waits_for_the_change_that_a_freeze_keeps_out() {
    let cluster = Cluster::start(1, K);
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let client = client(&cluster);
    client.fetch_add(0, 1).unwrap();
    let mut lock = segment.snapshot_lock().unwrap().unwrap();
    let frozen = lock.freeze(TEST_TIMEOUT).unwrap();
    add_in_vain(&client);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read_for_good(&cluster, &client));
        // A read that did not wait would be over by then.
        sleep(TIMEOUT);
        drop(frozen);
        reader.join().unwrap();
    });
}

#[test]
fn a_read_through_an_open_pipeline_waits_for_it_too_and_a_ping_does_not() {
    let cluster = Cluster::start(1, K);
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let client = client(&cluster);
    let mut pipeline = client.pipeline();
    pipeline.fetch_add(0, 1).unwrap();
    pipeline.next().unwrap().unwrap();
    let mut lock = segment.snapshot_lock().unwrap().unwrap();
    let frozen = lock.freeze(TEST_TIMEOUT).unwrap();
    add_in_vain(&client);
    assert!(client.clone().with_timeout(TIMEOUT).ping(0).is_ok());
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            pipeline.read(0, 8).unwrap();
            match pipeline.next().unwrap().unwrap() {
                Reply::Data(found) => stays(&cluster, &found),
                other => panic!("{other:?}"),
            }
        });
        // A read that did not wait would be over by then.
        sleep(TIMEOUT);
        drop(frozen);
        reader.join().unwrap();
    });
}

#[test]
fn a_change_that_a_stopped_dsmd_has_received_takes_effect_before_the_next_read_or_never() {
    let cluster = Cluster::start(1, K);
    let client = client(&cluster);
    for _ in 0..5 {
        // Leaves a connection on which the change goes out.
        client.fetch_add(0, 1).unwrap();
        cluster.signal(0, Signal::SIGSTOP);
        wait_for("dsmd is stopped", TEST_TIMEOUT, || {
            state(cluster.pid(0)) == 'T'
        });
        add_in_vain(&client);
        cluster.signal(0, Signal::SIGCONT);
        read_for_good(&cluster, &client);
    }
}

#[test]
fn every_session_that_was_given_up_is_ended_before_the_next_request() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout);
    let counts = || {
        let state = servers[0].state();
        (state.hellos, state.resumed)
    };
    let mut pipelines: Vec<_> = (0..3).map(|_| client.pipeline()).collect();
    for pipeline in &mut pipelines {
        pipeline.fetch_add(0, 1).unwrap();
        pipeline.next().unwrap().unwrap();
        // This one's reply is never received.
        pipeline.fetch_add(0, 1).unwrap();
    }
    drop(pipelines);
    assert_eq!(counts(), (3, 0));
    client.read(0, 8).unwrap();
    assert_eq!(counts(), (7, 3), "one for each, and one of a new session");
    client.read(0, 8).unwrap();
    assert_eq!(counts(), (7, 3), "they are ended once");
}
