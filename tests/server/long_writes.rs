//! Long writes, whose data a thread with one connection receives directly into shared memory.
//! Whether they arrive in pieces, are mixed with other requests, change threads or break off, each
//! takes effect whole or not at all, and no request behind them is lost.

#![allow(clippy::unwrap_used)]

use dsm_core::protocol::{Code, Extent, MemoryChange, MemoryOperation, Request};
use std::time::Duration;
use support::counts::count;
use support::random::Random;
use support::wire::{TEST_TIMEOUT, Wire, encoded};
use support::{Cluster, client, wait_for};

const K: u64 = 1 << 20;

/// The longest and the shortest data that is received directly.
const SLOT: u64 = 64 << 10;
const LONG: u64 = 16 << 10;

/// Two threads for connections; with a third connection, all of them share.
fn cluster() -> Cluster {
    Cluster::builder()
        .k(K)
        .config("[limits]\nthreads = 2\nrequest_timeout = \"5s\"\n")
        .start()
}

fn extent(offset: u64, length: u64) -> Extent {
    Extent::new(offset, length, K).unwrap()
}

/// A client with one connection, and the expected memory.
struct LongWriter {
    wire: Wire,
    memory: Vec<u8>,
    id: u64,
    /// Requests without a reply, with the data that a read must return.
    in_flight: Vec<(u64, Option<Vec<u8>>)>,
}

impl LongWriter {
    fn new(cluster: &Cluster) -> Self {
        Self {
            wire: Wire::greeted(cluster.layout(), 0),
            memory: vec![0; 1 << 20],
            id: 0,
            in_flight: Vec::new(),
        }
    }

    fn range(offset: u64, length: u64) -> std::ops::Range<usize> {
        usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap()
    }

    /// Encodes a request and applies its effect to the expected memory.
    fn request<'a>(
        &mut self,
        request: impl Into<Request<'a>>,
        expected: Option<Vec<u8>>,
    ) -> Vec<u8> {
        self.id += 1;
        self.in_flight.push((self.id, expected));
        encoded(self.id, request)
    }

    fn write(&mut self, offset: u64, length: u64) -> Vec<u8> {
        let mut random = Random::seeded(self.id);
        let data: Vec<u8> = (0..=length / 8)
            .flat_map(|_| random.next().to_le_bytes())
            .collect();
        let data = &data[..usize::try_from(length).unwrap()];
        self.memory[Self::range(offset, length)].copy_from_slice(data);
        self.request(MemoryChange::Write(extent(offset, length), data), None)
    }

    fn read(&mut self, offset: u64, length: u64) -> Vec<u8> {
        let expected = self.memory[Self::range(offset, length)].to_vec();
        self.request(
            MemoryOperation::Read(extent(offset, length)),
            Some(expected),
        )
    }

    fn replies(&mut self) {
        for (id, expected) in std::mem::take(&mut self.in_flight) {
            let reply = self.wire.reply();
            assert_eq!(
                (reply.code(), reply.header.id.get()),
                (None, id),
                "{}",
                reply.text()
            );
            assert!(
                expected.is_none_or(|expected| expected == reply.payload),
                "read {id} is wrong"
            );
        }
    }

    /// Sends a request and waits for the reply.
    fn ask(&mut self, request: &[u8]) {
        self.wire.send(request);
        self.replies();
    }

    fn check(&mut self) {
        let all = self.read(0, K);
        self.ask(&all);
    }
}

/// Sends the bytes in random pieces, some of them after a delay.
fn send_in_pieces(wire: &mut Wire, mut bytes: &[u8], random: &mut Random) {
    while !bytes.is_empty() {
        let most = [bytes.len(), 100, 5000][random.index(3)].min(bytes.len());
        let (piece, rest) = bytes.split_at(1 + random.index(most));
        wire.send(piece);
        bytes = rest;
        match random.index(8) {
            0 => std::thread::sleep(Duration::from_micros(random.within(0, 1000))),
            1 => std::thread::yield_now(),
            _ => {}
        }
    }
}

/// A length that is received directly, or almost.
fn length(random: &mut Random) -> u64 {
    match random.index(8) {
        0 => LONG - 1,
        1 => LONG,
        2 | 3 => SLOT,
        4 => SLOT + 1,
        5 => random.within(1, 200),
        6 => random.within(SLOT, 4 * SLOT),
        _ => random.within(LONG, SLOT + 1),
    }
}

/// Several requests to be in flight together.
fn requests(writer: &mut LongWriter, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Mostly one request, and often as long as the one before.
    let number = if random.index(3) == 0 {
        random.within(1, 6)
    } else {
        1
    };
    let common = length(random);
    for _ in 0..number {
        let length = if random.index(2) == 0 {
            common
        } else {
            length(random)
        };
        let offset = random.within(0, K - length + 1);
        bytes.extend(if random.index(4) == 0 {
            writer.read(offset, length)
        } else {
            writer.write(offset, length)
        });
    }
    bytes
}

#[test]
fn writes_in_pieces_and_among_other_requests_store_what_was_sent() {
    let cluster = cluster();
    let mut random = Random::new("long_writes");
    let mut writer = LongWriter::new(&cluster);
    for round in 0..count(500, 15_000) {
        let bytes = requests(&mut writer, &mut random);
        if random.index(3) == 0 {
            send_in_pieces(&mut writer.wire, &bytes, &mut random);
        } else {
            writer.wire.send(&bytes);
        }
        writer.replies();
        if round % 50 == 0 {
            writer.check();
        }
    }
    writer.check();
}

#[test]
fn a_connection_that_changes_threads_in_the_middle_of_a_write_keeps_the_received_data() {
    let cluster = cluster();
    let mut random = Random::new("long_writes move");
    let mut writer = LongWriter::new(&cluster);
    for _ in 0..6 {
        wait_for("a dedicated thread", TEST_TIMEOUT, || {
            !cluster.threads(0, "dsm-connection").is_empty()
        });
        // The first write only makes the server expect another one.
        for _ in 0..2 {
            let long = writer.write(random.within(0, K - SLOT), SLOT);
            writer.ask(&long);
        }
        let long = writer.write(random.within(0, K - SLOT), SLOT);
        let (begin, end) = long.split_at(random.index(long.len()));
        writer.wire.send(begin);
        let others: Vec<Wire> = (0..2).map(|_| Wire::greeted(cluster.layout(), 0)).collect();
        wait_for("a shared thread", TEST_TIMEOUT, || {
            cluster.threads(0, "dsm-connection").is_empty()
        });
        writer.ask(end);
        writer.check();
        drop(others);
    }
}

#[test]
fn a_write_refused_after_its_data_was_received_changes_nothing_and_the_connection_stays_open() {
    let cluster = cluster();
    let mut writer = LongWriter::new(&cluster);
    for _ in 0..3 {
        let long = writer.write(0, SLOT);
        writer.ask(&long);
        writer.id += 1;
        // The extent is valid for a larger memory only.
        let outside = Extent::new(K - SLOT + 1, SLOT, 2 * K).unwrap();
        writer.wire.send(&encoded(
            writer.id,
            MemoryChange::Write(outside, &vec![7; 64 << 10]),
        ));
        writer
            .wire
            .reply()
            .assert_refused(Code::OutOfRange, &["outside the segment"]);
        writer.check();
    }
}

#[test]
fn a_client_that_stops_in_the_middle_of_a_write_is_refused_in_time_and_changes_nothing() {
    let cluster = cluster();
    let mut writer = LongWriter::new(&cluster);
    let before = writer.write(0, SLOT);
    writer.ask(&before);
    let memory = writer.memory.clone();
    let never = writer.write(0, SLOT);
    writer.wire.send(&never[..40_000]);
    let reply = writer.wire.reply();
    reply.assert_refused(Code::TooSlow, &["limits.request_timeout"]);
    writer.wire.assert_closed();
    assert!(
        client(&cluster).read(0, K).unwrap() == memory,
        "a partial write took effect"
    );
}

#[test]
fn a_write_received_in_part_when_dsmd_is_killed_has_no_effect() {
    let cluster = cluster();
    let mut writer = LongWriter::new(&cluster);
    for _ in 0..3 {
        let before = writer.write(100, SLOT);
        writer.ask(&before);
    }
    let memory = writer.memory.clone();
    let never = writer.write(100, SLOT);
    writer.wire.send(&never[..never.len() - 1]);
    // Long enough to be received directly; if it was not, the test only checks less.
    std::thread::sleep(Duration::from_millis(100));
    cluster.restart(0);
    assert!(
        client(&cluster).read(0, K).unwrap() == memory,
        "a partial write took effect"
    );
}

/// Writes one request after the other, each filled with one byte value, until the server ends.
/// Returns the last number that was acknowledged; the next write was in flight.
fn write_until_killed(mut wire: Wire, last: u64) -> u64 {
    let mut acknowledged = last;
    for id in 1.. {
        let [byte, ..] = (acknowledged + 1).to_le_bytes();
        let request = encoded(
            id,
            MemoryChange::Write(extent(100, SLOT), &vec![byte; 64 << 10]),
        );
        let Ok(reply) = wire.try_send(&request).and_then(|()| wire.try_reply()) else {
            break;
        };
        assert_eq!(reply.code(), None, "{}", reply.text());
        acknowledged += 1;
    }
    acknowledged
}

#[test]
fn a_write_interrupted_by_a_kill_is_whole_or_absent_and_earlier_ones_are_kept() {
    let cluster = cluster();
    let mut random = Random::new("long_writes kill");
    let (mut acknowledged, most) = (0, count(100, 2000));
    // Some kills hit a write that is half done.
    for kills in 1..=most {
        let (wire, last) = (Wire::greeted(cluster.layout(), 0), acknowledged);
        let writer = std::thread::spawn(move || write_until_killed(wire, last));
        std::thread::sleep(Duration::from_micros(random.within(2_000, 12_000)));
        cluster.kill(0);
        acknowledged = writer.join().unwrap();
        cluster.start_server(0);
        let found = client(&cluster).read(100, SLOT).unwrap();
        let begin = found[0];
        assert!(
            found.iter().all(|&byte| byte == begin),
            "after kill {kills} there is a partial write"
        );
        if u64::from(begin) == (acknowledged + 1) % 256 {
            acknowledged += 1;
        }
        assert_eq!(
            u64::from(begin),
            acknowledged % 256,
            "after kill {kills} an acknowledged write is lost"
        );
    }
    let redone = client(&cluster).status(0).unwrap().recovery.redone_writes;
    println!(
        "{acknowledged} writes, {most} kills; {redone} of them hit a committed write, which was redone"
    );
}

#[test]
fn requests_behind_a_directly_received_write_are_not_lost() {
    let cluster = cluster();
    let mut writer = LongWriter::new(&cluster);
    let mut random = Random::new("long_writes behind");
    for _ in 0..count(200, 5000) {
        let long = writer.write(0, SLOT);
        writer.ask(&long);
        // As long as expected, longer and shorter, with another request behind it in the same send.
        let length = [SLOT, SLOT - 1, LONG, LONG - 1, 8, SLOT + 1, 2 * SLOT][random.index(7)];
        let mut bytes = writer.write(random.within(0, K - length), length);
        for _ in 0..random.index(4) {
            bytes.extend(writer.read(0, 1000));
            bytes.extend(writer.write(random.within(0, K - SLOT), [8, SLOT][random.index(2)]));
        }
        writer.ask(&bytes);
    }
    writer.check();
    let ping = encoded(u64::from(u32::MAX), Request::Ping(b"still there"));
    writer.wire.send(&ping);
    assert_eq!(writer.wire.reply().payload, b"still there");
}
