//! What the state machine promises, without sockets and without waiting.

mod model_server;
mod simulation;

use super::call::{CallKind, CallOutput};
use super::error::{Effect, Error, ErrorKind};
use super::server_connection::Phase;
use dsm_core::protocol::{Code, WINDOW};
use model_server::{count_requests, is_hello_alone};
use proptest::prelude::*;
use simulation::{Break, Simulation};
use std::time::Duration;

const MIB: usize = 1 << 20;

/// The deadline of the calls, for the text of their errors.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A simulation whose connection is ready.
fn connected<'a>() -> Simulation<'a> {
    let mut simulation = Simulation::new();
    simulation.increment(8);
    simulation.run();
    assert_eq!(simulation.old_value(), 0);
    simulation
}

fn reason(simulation: &mut Simulation<'_>) -> String {
    let error = simulation.outcome().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    error.reason().to_owned()
}

fn fail_at_deadline(simulation: &mut Simulation<'_>) {
    let now = simulation.now;
    simulation.machine().fail_at_deadline(TIMEOUT, now);
}

fn uncertain(error: &Error) -> bool {
    error.kind() == ErrorKind::OutcomeUnknown && error.effect() == Effect::Possible
}

/// Three increments, with breaks of the first connections. Returns whether all breaks came.
fn three_increments(breaks: &[Break]) -> bool {
    let mut simulation = Simulation::new();
    simulation.breaks = breaks.to_vec();
    for _ in 0..3 {
        simulation.increment(0);
    }
    simulation.run();
    let old: Vec<u64> = (0..3).map(|_| simulation.old_value()).collect();
    assert_eq!(old, [0, 1, 2], "{breaks:?}");
    assert_eq!(simulation.server.word(0), 3, "{breaks:?}");
    let executed = simulation.server.executed.iter();
    let ids: Vec<u64> = executed.map(|(_, id)| *id).collect();
    assert_eq!(ids, [1, 2, 3], "{breaks:?}");
    simulation.breaks.is_empty()
}

#[test]
fn a_request_is_executed_once_wherever_the_connection_breaks() {
    let sent = (0..).take_while(|place| three_increments(&[Break::Sent(*place)]));
    assert!(sent.count() > 3 * 32 + 32 + 40, "requests, and hello");
    let received = (0..).take_while(|place| {
        three_increments(&[Break::Received(*place), Break::Sent(200)]);
        three_increments(&[Break::Received(*place)])
    });
    assert_eq!(
        received.count(),
        3 * 32 + 32 + 48 + 1,
        "replies, also to hello"
    );
}

proptest! {
    #[test]
    fn increments_count_once_each_however_often_connections_break(
        breaks in proptest::collection::vec((any::<bool>(), 0_usize..3000), 0..12),
        words in proptest::collection::vec(0_u64..4, 1..100),
        chunk in 1_usize..300,
    ) {
        let mut simulation = Simulation::new();
        let place = |(sent, after)| if sent { Break::Sent(after) } else { Break::Received(after) };
        simulation.breaks = breaks.into_iter().map(place).collect();
        simulation.chunk = chunk;
        let mut expected = [0_u64; 4];
        for word in &words {
            simulation.increment(8 * word);
        }
        simulation.run();
        for word in &words {
            let word = usize::try_from(*word).unwrap();
            prop_assert_eq!(simulation.old_value(), expected[word]);
            expected[word] += 1;
        }
        let found: Vec<u64> = (0..4).map(|word| simulation.server.word(8 * word)).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn an_abandoned_session_is_superseded_before_anything_else_is_asked() {
    let mut simulation = connected();
    let abandoned = simulation.connection.session.id;
    simulation.server.is_stopped = true;
    simulation.increment(0);
    assert!(simulation.send());
    let mut late = simulation.wire.take().unwrap();
    fail_at_deadline(&mut simulation);
    assert!(uncertain(&simulation.outcome().unwrap_err()));
    assert!(simulation.shared.is_abandoned(0, abandoned));

    simulation.server.is_stopped = false;
    let mut buffer = [9; 8];
    let mut simulation = simulation.next_call();
    simulation.push(CallKind::ReadInto(&mut buffer), 0, 8);
    while !simulation.machine().is_established() {
        simulation.step();
    }
    assert!(is_hello_alone(&simulation.unsent()));
    while simulation.shared.is_abandoned(0, abandoned) {
        assert!(simulation.send() | simulation.receive());
    }
    // The server reads now what it had received when it was stopped.
    simulation.server.receive(&mut late, &[]);
    simulation.run();
    assert!(simulation.outcome().is_ok());
    assert_eq!(simulation.server.hellos[1], abandoned);
    assert_ne!(simulation.server.hellos[2], abandoned);
    assert_eq!(simulation.server.hellos.len(), 3);
    assert_eq!(simulation.server.word(0), 0);
    drop(simulation);
    assert_eq!(buffer, [0; 8], "what was read is final");
}

#[test]
fn as_many_requests_as_the_window_has_are_sent_without_a_reply() {
    let mut simulation = connected();
    simulation.server.is_stopped = true;
    for _ in 0..2 * WINDOW {
        simulation.increment(0);
    }
    let mut sent = Vec::new();
    loop {
        let bytes = simulation.unsent();
        if !simulation.send() {
            break;
        }
        sent.extend(bytes);
    }
    assert_eq!(count_requests(&sent) as u64, WINDOW);
    // One reply makes room for one request.
    simulation.server.is_stopped = false;
    let mut wire = simulation.wire.take().unwrap();
    simulation.server.receive(&mut wire, &[]);
    let reply: Vec<u8> = wire.output.drain(..32).collect();
    simulation.wire = Some(wire);
    simulation.put(&reply);
    assert_eq!(count_requests(&simulation.unsent()), 1);
    simulation.run();
    assert_eq!(simulation.server.word(0), 2 * WINDOW);
}

#[test]
fn the_data_in_flight_is_bounded_and_is_sent_from_the_callers_memory() {
    let data = vec![5; 20 * MIB];
    let mut simulation = connected().next_call();
    simulation.server.is_stopped = true;
    for _ in 0..2 {
        simulation.push(CallKind::Write(&data[..10 * MIB]), 0, 10 * MIB as u64);
    }
    let mut sent = 0;
    loop {
        let now = simulation.now;
        let mut machine = simulation.machine();
        let Some((head, tail)) = machine.transmit(now) else {
            break;
        };
        assert!(head.len() < 4096 && data.as_ptr_range().contains(&tail.as_ptr()));
        let count = head.len() + tail.len();
        sent += count;
        assert!(simulation.send());
    }
    assert_eq!(sent, 8 * (MIB + 32));
    simulation.server.is_stopped = false;
    let mut wire = simulation.wire.take().unwrap();
    simulation.server.receive(&mut wire, &[]);
    simulation.wire = Some(wire);
    simulation.run();
    assert!(
        simulation.server.memory[..10 * MIB]
            .iter()
            .all(|byte| *byte == 5)
    );
}

#[test]
fn at_the_deadline_the_error_says_how_far_the_connection_was() {
    let waiting = |phase_after: &dyn Fn(&mut Simulation<'_>)| {
        let mut simulation = Simulation::new();
        simulation.increment(0);
        phase_after(&mut simulation);
        fail_at_deadline(&mut simulation);
        reason(&mut simulation)
    };
    let demand = |simulation: &mut Simulation<'_>| {
        let now = simulation.now;
        simulation.machine().demand(now);
    };
    let until_connecting = |simulation: &mut Simulation<'_>| {
        demand(simulation);
        let now = simulation.now;
        simulation.machine().connecting(now);
    };
    assert_eq!(waiting(&|_| {}), "not connected; gave up after 5s");
    assert_eq!(
        waiting(&demand),
        "the look-up of its name has not ended; gave up after 5s"
    );
    assert_eq!(
        waiting(&until_connecting),
        "no answer to the attempt to connect; gave up after 5s"
    );
    assert_eq!(
        waiting(&|simulation| {
            until_connecting(simulation);
            simulation.connect();
        }),
        "it took the connection, but did not answer hello; gave up after 5s"
    );
    assert_eq!(
        waiting(&|simulation| {
            until_connecting(simulation);
            simulation.machine().address_failed("refused".into());
            until_connecting(simulation);
        }),
        "no answer to the attempt to connect; before that: refused; gave up after 5s"
    );
    assert_eq!(
        waiting(&|simulation| {
            demand(simulation);
            simulation.break_off("its name is not resolved");
        }),
        "its name is not resolved; gave up after 5s"
    );
}

#[test]
fn at_the_deadline_only_a_change_of_which_a_byte_was_sent_is_uncertain() {
    let mut buffer = [0; 8];
    let mut simulation = connected().next_call();
    simulation.server.is_stopped = true;
    simulation.increment(0);
    simulation.push(CallKind::ReadInto(&mut buffer), 0, 8);
    assert!(simulation.send());
    simulation.increment(0);
    simulation.increment(0);
    // One byte of the second increment.
    let now = simulation.now;
    assert!(simulation.machine().transmit(now).is_some());
    simulation.machine().sent(1);
    fail_at_deadline(&mut simulation);
    let error = simulation.outcome().unwrap_err();
    assert!(uncertain(&error));
    assert_eq!(
        error.to_string(),
        "server 0 (127.0.0.1:1): it is unknown whether the fetch-add took effect: no reply; gave up after 5s. If dsmd was \
         stopped, it may still take effect when dsmd continues: read the memory then, before doing it again"
    );
    assert_eq!(reason(&mut simulation), "no reply; gave up after 5s");
    assert!(uncertain(&simulation.outcome().unwrap_err()));
    assert_eq!(reason(&mut simulation), "no reply; gave up after 5s");
    assert!(!simulation.queue.is_busy());
}

#[test]
fn a_change_is_uncertain_if_the_server_has_forgotten_its_session() {
    let mut simulation = connected();
    simulation.server.is_stopped = true;
    simulation.increment(0);
    assert!(simulation.send());
    simulation.increment(0);
    simulation.server.is_stopped = false;
    simulation.server.forget_sessions();
    simulation.break_off("it broke");
    simulation.run();
    let error = simulation.outcome().unwrap_err();
    assert!(uncertain(&error), "{error}");
    assert_eq!(
        error.reason(),
        "the connection broke before the reply, and the server has forgotten the session"
    );
    assert_eq!(
        simulation.old_value(),
        0,
        "the other one was not sent before"
    );
    assert_eq!(simulation.server.word(0), 1);
}

#[test]
fn pauses_and_attempts_to_connect_grow_until_a_reply_comes() {
    let mut simulation = connected();
    simulation.increment(0);
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap();
    for failures in 0..12 {
        let pause = match failures {
            0 => 0,
            _ => (10 << (failures - 1)).min(500),
        };
        simulation.break_off("it broke");
        let Phase::Down(until) = simulation.connection.phase else {
            panic!("{:?}", simulation.connection.phase);
        };
        let found = milliseconds(until - simulation.now);
        assert!((pause / 2..=pause).contains(&found), "{failures}: {found}");
        simulation.now = until;
        simulation.step();
        let Phase::Connecting(until) = simulation.connection.phase else {
            panic!("{:?}", simulation.connection.phase);
        };
        let timeout = (200_u64 << (failures + 1)).min(2000);
        assert_eq!(milliseconds(until - simulation.now), timeout);
    }
    simulation.run();
    simulation.break_off("it broke");
    assert_eq!(simulation.connection.phase, Phase::Down(simulation.now));
}

#[test]
fn an_address_without_an_answer_is_followed_by_the_next_one() {
    let mut simulation = Simulation::new();
    simulation.increment(0);
    simulation.step();
    simulation.wait(Duration::from_millis(199));
    let now = simulation.now;
    assert_eq!(
        simulation.machine().demand(now),
        super::server_queue::Demand::Nothing
    );
    simulation.wait(Duration::from_millis(1));
    let now = simulation.now;
    assert_eq!(
        simulation.machine().demand(now),
        super::server_queue::Demand::NextAddress
    );
}

#[test]
fn a_reply_is_taken_in_wherever_it_is_split() {
    let mut data = [0; 24];
    for (place, byte) in data.iter_mut().enumerate() {
        *byte = u8::try_from(place).unwrap();
    }
    // A write, a read, a refusal of a write, an increment.
    let length = 32 + (32 + 24) + (32 + 21) + 32;
    for split in 1..=length {
        for chunk in [split, 1] {
            let mut buffer = [0; 24];
            let mut simulation = connected().next_call();
            let last = simulation.connection.session.last_id();
            simulation.server.refusals.insert(last + 3, Code::TooLong);
            simulation.push(CallKind::Write(&data), 64, 24);
            simulation.push(CallKind::ReadInto(&mut buffer), 64, 24);
            simulation.push(CallKind::Write(&data), 128, 24);
            simulation.increment(0);
            assert!(simulation.send());
            let output = std::mem::take(&mut simulation.wire.as_mut().unwrap().output);
            assert_eq!(output.len(), length);
            for part in [&output[..split], &output[split..]] {
                part.chunks(chunk).for_each(|bytes| simulation.put(bytes));
            }
            assert!(matches!(simulation.outcome(), Ok(CallOutput::Done)));
            assert!(matches!(simulation.outcome(), Ok(CallOutput::Done)));
            let error = simulation.outcome().unwrap_err();
            assert_eq!(error.refusal(), Some(Code::TooLong));
            assert_eq!(error.effect(), Effect::None);
            assert_eq!(simulation.old_value(), 0);
            assert!(simulation.connection.is_clean(), "it can be used again");
            drop(simulation);
            assert_eq!(buffer, data);
        }
    }
}

#[test]
fn after_a_refusal_that_closes_the_connection_the_rest_is_sent_again() {
    let mut simulation = connected();
    let last = simulation.connection.session.last_id();
    simulation.server.refusals.insert(last + 2, Code::Busy);
    for _ in 0..3 {
        simulation.increment(0);
    }
    simulation.run();
    let old: Vec<u64> = (0..3).map(|_| simulation.old_value()).collect();
    assert_eq!(old, [0, 1, 2]);
    assert_eq!(simulation.server.hellos.len(), 2);
    // A refusal that another attempt would meet too ends every call.
    simulation.server.refusals.insert(last + 4, Code::Restoring);
    simulation.increment(0);
    simulation.increment(0);
    simulation.run();
    for _ in 0..2 {
        let error = simulation.outcome().unwrap_err();
        assert_eq!(error.refusal(), Some(Code::Restoring), "{error}");
        assert_eq!(error.effect(), Effect::None);
    }
    assert_eq!(simulation.server.word(0), 3);
}
