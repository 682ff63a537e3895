//! Ranges over several servers, and pipelines: programs see one memory.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use dsm_client::{Client, CompareAndSwap, ErrorKind, LocalAccess, Reply};
use dsm_core::layout::MAX_ATOMIC;
use dsm_core::protocol::Opcode;
use std::time::Duration;
use support::clients::client_of;
use support::fake_server::servers;
use support::{is_error, wait_for};

const K: u64 = 3 << 20;

fn pattern(length: u64) -> Vec<u8> {
    (0..length)
        .map(|i| (i % 251) as u8 ^ (i >> 16) as u8)
        .collect()
}

#[test]
fn a_range_over_three_servers_reads_back() {
    let (layout, servers) = servers(3, K);
    let client = client_of(layout);
    let data = pattern(2 * K);
    client.write(K - 5, &data).unwrap();
    assert!(client.read(K - 5, data.len() as u64).unwrap() == data);
    assert_eq!(servers[1].executed(Opcode::Write), K / MAX_ATOMIC);
    assert!(servers[0].state().memory[K as usize - 5..] == data[..5]);
    client.fill(K - 1, K + 2, 9).unwrap();
    assert!(
        client
            .read(K - 1, K + 2)
            .unwrap()
            .iter()
            .all(|byte| *byte == 9)
    );
    assert_eq!(client.read(K - 2, 1).unwrap(), data[3..4]);
    assert!(client.read(3 * K, 0).unwrap().is_empty());
    assert_eq!(
        client.read(3 * K, 1).unwrap_err().kind(),
        ErrorKind::OutsideMemory
    );
    assert_eq!(
        client.read(0, u64::MAX).unwrap_err().kind(),
        ErrorKind::OutsideMemory
    );
    assert_eq!(
        client.write(3 * K - 1, b"xx").unwrap_err().kind(),
        ErrorKind::OutsideMemory
    );
}

#[test]
fn atomics_return_the_old_value() {
    let (layout, _servers) = servers(2, K);
    let client = client_of(layout);
    assert_eq!(client.fetch_add(K, 0xff).unwrap(), 0);
    assert_eq!(client.fetch_and(K, 0x0f).unwrap(), 0xff);
    assert_eq!(client.fetch_or(K, 0xf0).unwrap(), 0x0f);
    assert_eq!(client.fetch_xor(K, 1).unwrap(), 0xff);
    assert_eq!(
        client
            .compare_and_swap(
                K,
                CompareAndSwap {
                    expected: 1,
                    new: 2
                }
            )
            .unwrap(),
        0xfe
    );
    assert_eq!(
        client
            .compare_and_swap(
                K,
                CompareAndSwap {
                    expected: 0xfe,
                    new: 2
                }
            )
            .unwrap(),
        0xfe
    );
    assert_eq!(client.swap(K, 3).unwrap(), 2);
    assert_eq!(client.read(K, 8).unwrap(), 3_u64.to_le_bytes());
    assert_eq!(
        client.fetch_add(K + 4, 1).unwrap_err().kind(),
        ErrorKind::Unaligned
    );
}

#[test]
fn an_overlapping_copy_has_the_result_of_memmove() {
    let (layout, servers) = servers(3, K);
    let client = client_of(layout);
    let mut expected = pattern(3 * K);
    client.write(0, &expected).unwrap();
    for (from, to, length) in [
        (0, 10, K - 10),
        (10, 0, K - 10),
        (K - 100, K - 50, K + 200),
        (K + 7, K - 50, K + 200),
        (0, 2 * K, K),
        (5, 5, 100),
        (1, 0, 3 * K - 1),
        (0, 1, 3 * K - 1),
    ] {
        client.copy(from..from + length, to).unwrap();
        expected.copy_within(from as usize..(from + length) as usize, to as usize);
        assert!(
            client.read(0, 3 * K).unwrap() == expected,
            "{from} to {to} length {length}"
        );
    }
    assert!(servers[0].executed(Opcode::Copy) > 3);
    assert_eq!(
        client.copy(0..6, 3 * K - 5).unwrap_err().kind(),
        ErrorKind::OutsideMemory
    );
}

#[test]
fn the_source_of_a_copy_that_ends_before_it_begins_is_an_error() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout);
    #[allow(clippy::reversed_empty_ranges)]
    let error = client.copy(10..5, 100).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutsideMemory);
    assert!(
        error
            .to_string()
            .contains("begins at address 10 and ends before address 5"),
        "{error}"
    );
    assert_eq!(client.copy(5..5, 100), Ok(()));
    assert_eq!(servers[0].state().requests, 0);
}

#[test]
fn a_pipeline_reads_into_buffers_of_its_caller() {
    let (layout, _servers) = servers(2, K);
    let client = client_of(layout);
    client.write(K - 3, b"abcdef").unwrap();
    let (mut one, mut both, mut none) = ([0; 2], [0; 6], [0; 0]);
    let mut pipeline = client.pipeline();
    pipeline.read_into(K, &mut one).unwrap();
    pipeline.read_into(K - 3, &mut both).unwrap();
    pipeline.read_into(2 * K, &mut none).unwrap();
    let outcomes: Vec<_> = pipeline.collect();
    assert_eq!(
        outcomes,
        [Ok(Reply::Done), Ok(Reply::Done), Ok(Reply::Done)]
    );
    assert_eq!((&one, &both), (b"de", b"abcdef"));
}

#[test]
fn a_client_tells_its_settings() {
    let (layout, _servers) = servers(1, K);
    let client = Client::with_layout(layout);
    let settings = |client: &Client| (client.timeout(), client.local());
    assert_eq!(
        settings(&client),
        (Duration::from_secs(5), LocalAccess::Auto)
    );
    let other = client
        .with_timeout(Duration::from_secs(7))
        .with_local(LocalAccess::Never);
    assert_eq!(
        settings(&other),
        (Duration::from_secs(7), LocalAccess::Never)
    );
}

#[test]
fn a_pipeline_collects_in_the_order_of_submission() {
    let (layout, servers) = servers(3, K);
    let client = client_of(layout);
    let words: Vec<[u8; 8]> = (0..1000_u64).map(u64::to_le_bytes).collect();
    let address = |number: u64| number % 3 * K + number / 3 * 8;
    let mut pipeline = client.pipeline();
    for (number, word) in words.iter().enumerate() {
        pipeline.write(address(number as u64), word).unwrap();
    }
    assert!(pipeline.by_ref().all(|reply| reply == Ok(Reply::Done)));
    for number in 0..1000 {
        pipeline.read(address(number), 8).unwrap();
        pipeline.fetch_add(address(number), 1).unwrap();
    }
    for number in 0..1000_u64 {
        assert_eq!(
            pipeline.next(),
            Some(Ok(Reply::Data(number.to_le_bytes().into())))
        );
        assert_eq!(pipeline.next(), Some(Ok(Reply::Old(number))));
    }
    pipeline.fill(0, 3 * K, 5).unwrap();
    pipeline.read(1, 0).unwrap();
    pipeline.read(1, 3 * K - 1).unwrap();
    assert_eq!(pipeline.next(), Some(Ok(Reply::Done)));
    assert_eq!(pipeline.next(), Some(Ok(Reply::Data(Vec::new()))));
    let Some(Ok(Reply::Data(data))) = pipeline.next() else {
        panic!()
    };
    assert!(data.len() as u64 == 3 * K - 1 && data.iter().all(|byte| *byte == 5));
    assert_eq!(pipeline.next(), None);
    assert_eq!(
        servers[2].state().hellos,
        1,
        "one connection for all requests"
    );
}

#[test]
fn a_dropped_pipeline_closes_its_connections_and_others_are_kept() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout);
    for _ in 0..10 {
        client.read(0, 1).unwrap();
    }
    assert_eq!(servers[0].state().hellos, 1);
    {
        let mut pipeline = client.pipeline();
        let data = vec![1; 100];
        pipeline.write(0, &data).unwrap();
    }
    client.read(0, 1).unwrap();
    assert_eq!(
        servers[0].state().hellos,
        3,
        "one ends the session of the write, one begins another"
    );
}

#[test]
fn status_and_ping_are_answered() {
    let (layout, _servers) = servers(1, K);
    let client = client_of(layout);
    assert_eq!(client.status(0).unwrap().pid, 4711);
    assert!(client.ping(0).unwrap().as_secs() < 1);
}

#[test]
fn servers_are_asked_for_their_status_at_the_same_time() {
    let (layout, servers) = servers(40, K);
    let client = client_of(layout).with_timeout(Duration::from_secs(50));
    for server in &servers {
        server.state().deaf = true;
    }
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| client.status_of_all());
        // None of them answers before all have been asked.
        wait_for("every server is asked", Duration::from_secs(30), || {
            servers.iter().all(|server| server.state().hellos == 1)
        });
        for server in &servers {
            server.state().deaf = false;
            server.break_all();
        }
        for (index, answer) in asked.join().unwrap().iter().enumerate() {
            let error = answer.as_ref().unwrap_err();
            assert!(is_error(error, ErrorKind::Unavailable, index), "{error}");
        }
    });
    servers[1].state().status = "{}".to_owned();
    let answers = client.status_of_all();
    assert_eq!(answers.len(), servers.len());
    for (index, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(status) => assert!(index != 1 && status.pid == 4711),
            Err(error) => assert!(is_error(&error, ErrorKind::Protocol, 1), "{error}"),
        }
    }
}
