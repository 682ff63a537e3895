//! A request takes effect exactly once, also when its connection breaks.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use dsm_client::{Effect, ErrorKind, Reply};
use dsm_core::protocol::{Code, Opcode};
use std::time::{Duration, Instant};
use support::clients::client_of;
use support::fake_server::{ServerFault, servers};
use support::is_error;

const K: u64 = 4 << 20;

#[test]
fn a_change_whose_reply_was_lost_takes_effect_once() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout);
    for (number, fault) in [
        ServerFault::BreakBefore,
        ServerFault::BreakAfter,
        ServerFault::BreakInReply,
    ]
    .into_iter()
    .enumerate()
    {
        servers[0].fault(0, fault);
        assert_eq!(client.fetch_add(8, 1).unwrap(), number as u64, "{fault:?}");
    }
    assert_eq!(
        (servers[0].word(8), servers[0].executed(Opcode::FetchAdd)),
        (3, 3)
    );
    assert_eq!(servers[0].state().replayed, 2);
}

#[test]
fn temporary_refusals_are_retried() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout);
    for code in [
        Code::TooManyConnections,
        Code::Stopping,
        Code::Busy,
        Code::TooSlow,
    ] {
        servers[0].break_all();
        servers[0].state().refuse_hello = (3, Some(code));
        client.fetch_add(0, 1).unwrap();
        assert_eq!(
            servers[0].state().refuse_hello.0,
            0,
            "the server refused with {code:?}"
        );
    }
    for code in [Code::Stopping, Code::Busy, Code::Internal] {
        servers[0].fault(0, ServerFault::Refuse(code));
        client.fetch_add(0, 1).unwrap();
    }
    assert_eq!(servers[0].word(0), 7);
}

#[test]
fn a_pipeline_of_a_thousand_adds_survives_a_break_every_17_requests() {
    let (layout, servers) = servers(2, K);
    for server in &servers {
        let faults = [
            ServerFault::BreakBefore,
            ServerFault::BreakAfter,
            ServerFault::BreakInReply,
        ];
        let chaos =
            move |number: u64| (number % 17 == 16).then(|| faults[(number / 17 % 3) as usize]);
        server.state().chaos = Some(Box::new(chaos));
    }
    let client = client_of(layout).with_timeout(Duration::from_secs(60));
    let mut pipeline = client.pipeline();
    for number in 0..1000 {
        pipeline.fetch_add((number % 2) * K, 1).unwrap();
    }
    for number in 0..1000 {
        assert_eq!(
            pipeline.next().unwrap().unwrap(),
            Reply::Old(number / 2),
            "outcomes in order, each once"
        );
    }
    assert!(pipeline.next().is_none());
    for server in &servers {
        assert_eq!(
            (server.word(0), server.executed(Opcode::FetchAdd)),
            (500, 500)
        );
        assert!(server.state().resumed > 20 && server.state().replayed > 0);
    }
}

#[test]
fn a_long_write_is_complete_after_breaks_in_its_middle() {
    let (layout, servers) = servers(3, K);
    for server in &servers {
        server.fault(1, ServerFault::BreakBefore);
        server.fault(2, ServerFault::BreakAfter);
        server.fault(4, ServerFault::BreakInReply);
    }
    let client = client_of(layout);
    let data: Vec<u8> = (0..3 * K - 200).map(|i| (i % 253) as u8).collect();
    client.write(100, &data).unwrap();
    assert_eq!(
        servers
            .iter()
            .map(|server| server.executed(Opcode::Write))
            .sum::<u64>(),
        12
    );
    for server in &servers {
        server.fault(1, ServerFault::BreakInReply);
    }
    assert!(client.read(100, data.len() as u64).unwrap() == data);
}

#[test]
fn a_lost_session_leaves_a_sent_change_unknown_and_reads_are_sent_again() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout).with_timeout(Duration::from_secs(10));
    client.fetch_add(0, 1).unwrap();
    servers[0].fault(1, ServerFault::Stall);
    let mut pipeline = client.pipeline();
    pipeline.read(0, 8).unwrap();
    pipeline.fetch_add(0, 1).unwrap();
    pipeline.read(0, 8).unwrap();
    assert_eq!(
        pipeline.next().unwrap().unwrap(),
        Reply::Data(vec![1, 0, 0, 0, 0, 0, 0, 0])
    );
    // The server executes the add, never replies, and then forgets the session.
    let end = Instant::now() + Duration::from_secs(5);
    while servers[0].word(0) < 2 {
        assert!(Instant::now() < end);
        std::thread::yield_now();
    }
    servers[0].forget_sessions();
    servers[0].break_all();
    let error = pipeline.next().unwrap().unwrap_err();
    assert!(is_error(&error, ErrorKind::OutcomeUnknown, 0), "{error}");
    assert_eq!(error.effect(), Effect::Possible);
    let said = format!(
        "server 0 ({}): it is unknown whether the fetch-add took effect",
        servers[0].address
    );
    assert!(error.to_string().contains(&said), "{error}");
    // A read changes nothing, so the client sends it again.
    assert_eq!(
        pipeline.next().unwrap().unwrap(),
        Reply::Data(vec![2, 0, 0, 0, 0, 0, 0, 0])
    );
    pipeline.fetch_add(0, 1).unwrap();
    assert_eq!(pipeline.next().unwrap().unwrap(), Reply::Old(2));
}

#[test]
fn a_change_is_not_sent_on_an_idle_connection_that_the_server_closed() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout);
    client.fetch_add(0, 1).unwrap();
    servers[0].forget_sessions();
    servers[0].break_all();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(
        client.fetch_add(0, 1).unwrap(),
        1,
        "it was not sent to the dead connection"
    );
}

#[test]
fn eight_threads_count_exactly_through_one_client_while_connections_break() {
    let (layout, servers) = servers(3, K);
    for server in &servers {
        let chaos = |number: u64| match number % 41 {
            13 => Some(ServerFault::BreakAfter),
            40 => Some(ServerFault::BreakBefore),
            _ => None,
        };
        server.state().chaos = Some(Box::new(chaos));
    }
    let client = client_of(layout).with_timeout(Duration::from_secs(60));
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let client = &client;
            scope.spawn(move || {
                for number in 0..300 {
                    client.fetch_add((number + thread) % 3 * K, 1).unwrap();
                }
            });
        }
    });
    let counts: Vec<u64> = servers.iter().map(|server| server.word(0)).collect();
    assert_eq!(counts, [800, 800, 800]);
}
