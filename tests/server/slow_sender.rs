//! A client that sends a byte a second delays no other client, and is refused after
//! `limits.request_timeout`.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use dsm_core::protocol::{Code, Extent, MemoryChange, Request};
use std::time::{Duration, Instant};
use support::wire::{TEST_TIMEOUT, Wire, encoded, hello};
use support::{Cluster, client};

const K: u64 = 1 << 20;

/// Sends a byte a second until the server closes the connection; its refusal, and when it came.
fn drip(mut wire: Wire, bytes: &[u8]) -> (support::wire::RawReply, Duration) {
    let began = Instant::now();
    wire.stream()
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    for byte in bytes {
        assert!(
            began.elapsed() < TEST_TIMEOUT,
            "the server waits for the rest forever"
        );
        if wire.try_send(&[*byte]).is_err() {
            break;
        }
        if let Ok(reply) = wire.try_reply() {
            wire.stream().set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
            wire.assert_closed();
            return (reply, began.elapsed());
        }
    }
    panic!("the connection ended without a refusal");
}

#[test]
fn a_slow_sender_is_refused_in_time_and_delays_no_other_client() {
    // One thread for all connections without a dedicated thread: slow senders must not block it.
    let limits = "[limits]\nrequest_timeout = \"2s\"\nhello_timeout = \"2s\"\nthreads = 1\n";
    let cluster = Cluster::builder().k(K).config(limits).start();
    let request = encoded(
        1,
        MemoryChange::Write(Extent::new(0, 100, K).unwrap(), &[7; 100]),
    );
    let greeting = hello(cluster.layout(), 0);
    let (layout, address) = (cluster.layout(), cluster.address(0));
    std::thread::scope(|scope| {
        let slow: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| drip(Wire::greeted(layout, 0), &request)))
            .collect();
        // The payload is sent as slowly as the header.
        let late = scope.spawn(|| {
            let mut wire = Wire::greeted(layout, 0);
            wire.send(&request[..40]);
            drip(wire, &request[40..])
        });
        let shy = scope.spawn(|| drip(Wire::connect(address), &greeting));
        let mut served = 0_u64;
        let client = client(&cluster);
        while !(shy.is_finished()
            && late.is_finished()
            && slow.iter().all(std::thread::ScopedJoinHandle::is_finished))
        {
            assert_eq!(client.fetch_add(8192, 1).unwrap(), served);
            served += 1;
        }
        println!("requests of another client served during that time: {served}");
        for (who, limit) in slow
            .into_iter()
            .chain([late])
            .zip(std::iter::repeat("limits.request_timeout"))
            .chain([(shy, "limits.hello_timeout")])
        {
            let (reply, after) = who.join().unwrap();
            reply.assert_refused(Code::TooSlow, &[limit]);
            assert!(
                after >= Duration::from_millis(1500),
                "refused after {after:?} already"
            );
            println!("refused after {after:?}: {}", reply.text());
        }
        assert!(served > 0);
    });
    assert_eq!(client(&cluster).read(0, 100).unwrap(), [0; 100]);
}

#[test]
fn a_client_that_sends_nothing_is_refused_after_the_hello_timeout() {
    let cluster = Cluster::builder()
        .k(K)
        .config("[limits]\nhello_timeout = \"1s\"\n")
        .start();
    let mut wire = Wire::connect(cluster.address(0));
    wire.reply()
        .assert_refused(Code::TooSlow, &["limits.hello_timeout"]);
    wire.assert_closed();
}

#[test]
fn an_idle_client_between_requests_is_not_too_slow() {
    let cluster = Cluster::builder()
        .k(K)
        .config("[limits]\nrequest_timeout = \"500ms\"\nhello_timeout = \"500ms\"\n")
        .start();
    let mut wire = Wire::greeted(cluster.layout(), 0);
    // The idle time is what is tested: several times the timeout.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(
        wire.ask(1, Request::Ping(b"back again")).text(),
        "back again"
    );
}
