//! Every call to a server that has lost its memory fails, until the program accepts the loss.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use dsm_client::ErrorKind;
use support::clients::client_of;
use support::fake_server::{ServerFault, servers};
use support::is_error;

const K: u64 = 1 << 16;

#[test]
fn every_call_reports_lost_memory_until_the_loss_is_accepted() {
    let (layout, servers) = servers(2, K);
    let client = client_of(layout);
    client.write(0, b"0").unwrap();
    client.write(K, b"1").unwrap();
    servers[1].lose_memory();
    let (clone, other) = (client.clone(), client.clone().with_own_connections());
    for _ in 0..2 {
        for error in [
            client.read(K, 1).unwrap_err(),
            other.write(K, b"3").unwrap_err(),
            clone.write(K, b"2").unwrap_err(),
            client.fetch_add(K, 1).unwrap_err(),
            client.read(K - 1, 2).unwrap_err(),
            client.ping(1).unwrap_err(),
        ] {
            assert!(is_error(&error, ErrorKind::MemoryLost, 1), "{error}");
            assert!(
                error
                    .to_string()
                    .contains(&format!("server 1 ({})", servers[1].address)),
                "{error}"
            );
        }
    }
    assert_eq!(
        client.read(0, 1).unwrap(),
        b"0",
        "the other server has lost nothing"
    );
    clone.accept_memory_loss(1);
    assert_eq!(client.read(K, 1).unwrap(), [0]);
    assert_eq!(other.read(K, 1).unwrap(), [0]);
    client.accept_memory_loss(99);
}

#[test]
fn a_change_in_flight_fails_when_the_memory_is_lost() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout);
    servers[0].fault(0, ServerFault::Stall);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| client.write(0, b"x"));
        while servers[0].state().memory[0] == 0 {
            std::thread::yield_now();
        }
        servers[0].lose_memory();
        let error = call.join().unwrap().unwrap_err();
        assert!(is_error(&error, ErrorKind::MemoryLost, 0), "{error}");
    });
}

#[test]
fn a_connection_in_use_gets_a_new_session_after_the_loss_is_accepted() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout);
    let mut pipeline = client.pipeline();
    pipeline.fetch_add(0, 1).unwrap();
    pipeline.next().unwrap().unwrap();
    client.accept_memory_loss(0);
    servers[0].lose_memory();
    pipeline.read(0, 1).unwrap();
    pipeline.next().unwrap().unwrap();
    pipeline.fetch_add(0, 1).unwrap();
    pipeline.next().unwrap().unwrap();
    assert_eq!(servers[0].word(0), 1);
}
