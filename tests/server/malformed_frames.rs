//! Bytes that are no request get a numbered refusal that says what was wrong, and other clients are
//! not affected.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use dsm_core::protocol::{Code, Extent, MemoryChange, Opcode, Request, RequestHeader, WINDOW};
use serde_json::json;
use std::io::Write;
use std::net::{Shutdown, TcpListener};
use support::agents::UNAVAILABLE;
use support::messages::{FakeMaster, control};
use support::random::Random;
use support::wire::{Wire, encoded};
use support::{Cluster, client};
use zerocopy::IntoBytes;

const K: u64 = 1 << 20;

/// Fails unless the server still serves a valid client.
fn assert_serves(cluster: &Cluster) {
    let client = client(cluster);
    let old = client.fetch_add(0, 1).unwrap();
    assert_eq!(client.read(0, 8).unwrap(), (old + 1).to_le_bytes());
}

#[test]
fn random_bytes_are_refused_and_the_connection_closed() {
    let cluster = Cluster::start(1, K);
    let mut random = Random::new("malformed_frames");
    for length in [32, 33, 100, 4096, 200_000] {
        let mut bytes: Vec<u8> = (0..length)
            .map(|_| random.next().to_le_bytes()[0])
            .collect();
        bytes[0] = b'X';
        let mut wire = Wire::connect(cluster.address(0));
        // The server may close before it has read all of it.
        let _ = wire.try_send(&bytes);
        // The reset that unread bytes cause can destroy the reply; if the reply arrives, it must
        // say why.
        if let Ok(reply) = wire.try_reply() {
            reply.assert_refused(Code::BadFrame, &["not the dsm protocol"]);
        }
        wire.assert_closed();
    }
    let mut wire = Wire::connect(cluster.address(0));
    wire.send(b"GET / HTTP/1.1\r\nHost: dsm.example\r\n\r\n");
    wire.reply()
        .assert_refused(Code::BadFrame, &["47 45", "HTTP"]);
    wire.assert_closed();
    assert_serves(&cluster);
}

#[test]
fn a_frame_that_ends_early_changes_nothing() {
    let cluster = Cluster::start(1, K);
    let whole = encoded(
        1,
        MemoryChange::Write(Extent::new(64, 4096, K).unwrap(), &[7; 4096]),
    );
    for length in [1, 31, 32, 33, 2000, whole.len() - 1] {
        let mut wire = Wire::greeted(cluster.layout(), 0);
        wire.send(&whole[..length]);
        wire.stream().shutdown(Shutdown::Write).unwrap();
        wire.assert_closed();
    }
    assert_eq!(client(&cluster).read(64, 4096).unwrap(), [0; 4096]);
    assert_serves(&cluster);
}

#[test]
fn a_payload_length_over_the_limit_is_refused_before_the_payload() {
    let cluster = Cluster::start(1, K);
    for claim in [(1 << 20) + 1, u32::MAX] {
        let mut header = RequestHeader::new(Opcode::Write, 1);
        header.payload = claim.into();
        let mut wire = Wire::greeted(cluster.layout(), 0);
        wire.send(header.as_bytes());
        wire.reply()
            .assert_refused(Code::BadFrame, &[&claim.to_string(), "1048576"]);
        wire.assert_closed();
    }
    assert_serves(&cluster);
}

#[test]
fn lengths_and_offsets_of_two_to_the_64_are_refused_and_the_connection_stays_open() {
    let cluster = Cluster::start(1, K);
    let mut wire = Wire::greeted(cluster.layout(), 0);
    let cases = [
        (Opcode::Read, 0, u64::MAX, Code::TooLong),
        (Opcode::Read, u64::MAX, 8, Code::OutOfRange),
        (Opcode::Read, u64::MAX - 7, 8, Code::OutOfRange),
        (Opcode::Read, K, 1, Code::OutOfRange),
        (Opcode::Fill, 0, u64::MAX, Code::TooLong),
        (Opcode::Fill, u64::MAX, u64::MAX, Code::TooLong),
        (Opcode::FetchAdd, u64::MAX, 1, Code::Unaligned),
        (Opcode::FetchAdd, u64::MAX - 7, 1, Code::OutOfRange),
        (Opcode::Swap, 4, 1, Code::Unaligned),
    ];
    for (id, (opcode, offset, operand, code)) in (1..).zip(cases) {
        let mut header = RequestHeader::new(opcode, id);
        header.offset = offset.into();
        header.operand = operand.into();
        wire.send(header.as_bytes());
        let reply = wire.reply();
        assert_eq!(reply.header.id.get(), id);
        let blamed = if code == Code::TooLong {
            operand
        } else {
            offset
        };
        reply.assert_refused(code, &[&blamed.to_string()]);
    }
    let reply = wire.ask(100, Request::Ping(b"still here"));
    assert_eq!((reply.code(), reply.text().as_str()), (None, "still here"));
    let status = client(&cluster).status(0).unwrap();
    assert!(
        status.traffic.errors >= cases.len() as u64,
        "errors counted: {}",
        status.traffic.errors
    );
}

#[test]
fn an_unknown_opcode_is_refused_and_the_connection_stays_open() {
    let highest = u8::try_from(Opcode::ALL.len()).unwrap();
    let cluster = Cluster::start(1, K);
    let mut wire = Wire::greeted(cluster.layout(), 0);
    for (id, opcode) in (1..).zip((highest + 1..=31).chain([0, 32, 200, 255])) {
        let mut header = RequestHeader::new(Opcode::Ping, 2 * id);
        header.opcode = opcode;
        header.payload = 5.into();
        wire.send(header.as_bytes());
        wire.send(b"hello");
        let reply = wire.reply();
        assert_eq!(reply.header.opcode, opcode);
        let message = format!("opcode {opcode} is not known; the highest is {highest}");
        reply.assert_refused(Code::UnknownOpcode, &[&message]);
        let ping = wire.ask(2 * id + 1, Request::Ping(b"still here"));
        assert_eq!((ping.code(), ping.text().as_str()), (None, "still here"));
    }
}

#[test]
fn a_field_that_must_be_zero_is_refused_and_the_connection_stays_open() {
    let cluster = Cluster::start(1, K);
    let mut wire = Wire::greeted(cluster.layout(), 0);
    let mut header = RequestHeader::new(Opcode::Read, 1);
    header.operand = 8.into();
    header.argument = 3;
    wire.send(header.as_bytes());
    wire.reply().assert_refused(Code::BadRequest, &["argument"]);
    assert_eq!(
        wire.ask(2, Request::Ping(b"still here")).text(),
        "still here"
    );
}

/// The first bytes of other programs, which may be shorter than a header, and the name in the
/// refusal.
const FOREIGN: [(&[u8], &str); 4] = [
    (b"GET / HTTP/1.0\r\n\r\n", "HTTP"),
    (b"HTTP/1.0 400 \r\n\r\n", "HTTP"),
    (b"\x15\x03\x03\x00\x02\x02\x32", "TLS"),
    (b"SSH-2.0-x\r\n", "SSH"),
];

/// The text that says which port belongs to which service.
const PORTS: &str = "`address` is the port of dsmd and `snapshot` that of its agent";

/// The exit code of dsmctl for a peer that violates the protocol.
const PROTOCOL: i32 = 76;

#[test]
fn dsmd_and_the_agent_name_a_program_that_connects_to_the_wrong_port() {
    let cluster = Cluster::start(1, K);
    cluster.start_agent(0);
    let hello = control(json!({"hello": {"layout": cluster.layout().canonical(), "index": 0}}));
    for (bytes, words) in FOREIGN
        .into_iter()
        .chain([(&hello[..], "this is a snapshot agent or its client")])
    {
        let mut wire = Wire::connect(cluster.address(0));
        wire.send(bytes);
        wire.reply().assert_refused(Code::BadFrame, &[words]);
        wire.assert_closed();
    }
    let request = encoded(1, Request::Ping(b"hello"));
    for (bytes, words) in FOREIGN
        .into_iter()
        .chain([(&request[..], "this is a client of dsmd")])
    {
        let mut caller = FakeMaster::connect(&cluster, 0);
        caller.send(bytes);
        let (_, text) = caller.refusal().expect("a refusal");
        assert!(text.contains(words), "{text}");
    }
    let (dsmd, agent) = (cluster.stderr(0), cluster.agent(0).stderr());
    assert!(
        dsmd.contains("refused 127.") && dsmd.contains(PORTS),
        "{dsmd}"
    );
    assert!(
        agent.contains("refused 127.") && agent.contains(PORTS),
        "{agent}"
    );
    assert_serves(&cluster);
}

#[test]
fn dsmctl_names_the_program_that_answers_instead_of_dsmd_or_an_agent() {
    let cluster = Cluster::start(1, K);
    cluster.start_agent(0);
    let run = |address: &str, agent: &str, line: &str| {
        let path = cluster.directory().join("other.cfg");
        let text = std::fs::read_to_string(cluster.config_path()).unwrap();
        let other = |key: &str, old: &str, new: &str| {
            (format!("{key} = {old:?}"), format!("{key} = {new:?}"))
        };
        let (old, new) = other("address", cluster.address(0), address);
        let text = text.replace(&old, &new);
        let (old, new) = other("snapshot", cluster.agent_address(0), agent);
        std::fs::write(&path, text.replace(&old, &new)).unwrap();
        support::dsmctl::run(cluster.directory(), &path, line, b"")
    };
    // The two ports exchanged.
    let (address, agent) = (cluster.address(0), cluster.agent_address(0));
    run(agent, address, "read 0 8")
        .fails(PROTOCOL, &["this is a snapshot agent or its client", PORTS]);
    run(agent, address, "snapshot create")
        .fails(UNAVAILABLE, &["this is dsmd, not a snapshot agent", PORTS]);
    for (bytes, words) in FOREIGN {
        let listener = TcpListener::bind((address.rsplit_once(':').unwrap().0, 0)).unwrap();
        let other = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            // As such servers do, it keeps the connection open.
            let _kept: Vec<_> = listener
                .incoming()
                .flatten()
                .inspect(|mut stream| drop(stream.write(bytes)))
                .collect();
        });
        run(&other, agent, "read 0 8").fails(PROTOCOL, &[words]);
        run(address, &other, "snapshot create").fails(UNAVAILABLE, &[words]);
    }
}

#[test]
fn an_id_outside_the_window_is_refused_and_earlier_requests_are_answered() {
    let cluster = Cluster::start(1, K);
    let pings = |ids: &[u64]| {
        ids.iter()
            .flat_map(|&id| encoded(id, Request::Ping(b"here")))
            .collect::<Vec<u8>>()
    };
    let inside: Vec<u64> = (1..=WINDOW).collect();
    // By number, and by a gap of the same length. One send, which the server receives at once.
    for ids in [inside.as_slice(), &[1]] {
        let mut wire = Wire::greeted(cluster.layout(), 0);
        wire.send(&pings(&[ids, &[WINDOW + 1, WINDOW + 2]].concat()));
        for &id in ids {
            let reply = wire.reply();
            assert_eq!(
                (reply.code(), reply.header.id.get()),
                (None, id),
                "{}",
                reply.text()
            );
        }
        let reply = wire.reply();
        assert_eq!(reply.header.id.get(), WINDOW + 1);
        reply.assert_refused(Code::BadSequence, &["65", "reply to 1:", "64"]);
        wire.assert_closed();
    }
    // A whole window, repeatedly, and the widest gap that it allows.
    let mut wire = Wire::greeted(cluster.layout(), 0);
    for round in 0..20 {
        let ids: Vec<u64> = inside.iter().map(|id| round * WINDOW + id).collect();
        let ids = if round % 2 == 0 {
            ids
        } else {
            vec![ids[0], round * WINDOW + WINDOW]
        };
        wire.send(&pings(&ids));
        for id in ids {
            let reply = wire.reply();
            assert_eq!(
                (reply.code(), reply.header.id.get()),
                (None, id),
                "{}",
                reply.text()
            );
        }
    }
    assert_serves(&cluster);
}
