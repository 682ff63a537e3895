//! SIGTERM ends dsmd in time and in order: requests that arrived are answered, the memory is kept,
//! and clients only see a pause.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use nix::sys::signal::Signal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::{Cluster, client};
use zerocopy::IntoBytes;

const CLIENTS: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(2);

/// Increments a counter while dsmd stops and starts; in the end it equals the number of calls.
fn stop_under_load(signal: Signal) {
    let cluster = Cluster::builder()
        .k(1 << 20)
        .config("[limits]\nshutdown_timeout = \"2s\"\n")
        .start();
    let (done, called) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for writer in 0..CLIENTS {
            let (done, called, client) = (&done, &called, client(&cluster));
            scope.spawn(move || {
                let data = vec![u8::try_from(writer).unwrap() + 1; 60_000];
                while !done.load(Ordering::SeqCst) {
                    called.fetch_add(1, Ordering::SeqCst);
                    client
                        .fetch_add(0, 1)
                        .unwrap_or_else(|error| panic!("a client saw an error: {error}"));
                    client
                        .write(65536 * (writer as u64 + 1), &data)
                        .unwrap_or_else(|error| panic!("{error}"));
                }
            });
        }
        for round in 0..3 {
            let due = called.load(Ordering::SeqCst) + 100;
            support::wait_for("some load", support::wire::TEST_TIMEOUT, || {
                called.load(Ordering::SeqCst) >= due
            });
            let began = Instant::now();
            cluster.signal(0, signal);
            let status = cluster.wait(0);
            let took = began.elapsed();
            println!("{signal} {round}: {status} after {took:?}");
            assert_eq!(status.code(), Some(0), "{}", cluster.stderr(0));
            assert!(
                took <= TIMEOUT + Duration::from_secs(1),
                "dsmd took {took:?} to stop"
            );
            assert!(!cluster.leftovers().is_empty(), "the segment is kept");
            cluster.start_server(0);
        }
        done.store(true, Ordering::SeqCst);
    });
    let calls = called.load(Ordering::SeqCst);
    assert_eq!(
        client(&cluster).fetch_add(0, 0).unwrap(),
        calls,
        "each call counts once"
    );
    for writer in 0..CLIENTS as u64 {
        let found = client(&cluster).read(65536 * (writer + 1), 60_000).unwrap();
        assert!(
            found.iter().all(|&byte| u64::from(byte) == writer + 1),
            "writer {writer}'s data is lost"
        );
    }
    println!("{signal}: {calls} calls, none failed");
}

#[test]
fn sigterm_under_load_is_a_pause_and_no_error() {
    stop_under_load(Signal::SIGTERM);
}

#[test]
fn sigint_under_load_is_a_pause_and_no_error() {
    stop_under_load(Signal::SIGINT);
}

#[test]
fn a_client_that_sent_half_a_request_does_not_delay_the_stop() {
    let cluster = Cluster::builder()
        .k(1 << 20)
        .config("[limits]\nshutdown_timeout = \"2s\"\n")
        .start();
    let mut wires: Vec<_> = (0..20)
        .map(|_| support::wire::Wire::greeted(cluster.layout(), 0))
        .collect();
    for wire in &mut wires {
        wire.send(
            &dsm_core::protocol::RequestHeader::new(dsm_core::protocol::Opcode::Write, 1)
                .as_bytes()[..20],
        );
    }
    let began = Instant::now();
    let status = cluster.stop(0);
    assert_eq!(status.code(), Some(0), "{}", cluster.stderr(0));
    assert!(
        began.elapsed() <= TIMEOUT + Duration::from_secs(1),
        "dsmd took {:?} to stop",
        began.elapsed()
    );
}
