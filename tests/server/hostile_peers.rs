//! Peers that send and hold as much as they can delay neither other peers nor the watchdog of dsmd.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use dsm_core::layout::MAX_ATOMIC;
use dsm_core::protocol::{
    Code, Extent, MAX_HELLO, MemoryChange, MemoryOperation, Opcode, Request, RequestHeader,
};
use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::service::Service;
use support::wire::{Wire, encoded};
use support::{Cluster, wait_for};
use zerocopy::IntoBytes;

const K: u64 = 4 << 20;

/// The watchdog interval that dsmd is told; it probes itself three times as often.
const WATCHDOG_MICROSECONDS: &str = "300000";

/// The longest wait of another peer and of the watchdog. On an idle machine it is a few
/// milliseconds; a hang is longer.
const LONGEST: Duration = Duration::from_secs(5);

/// Less than `limits.request_timeout`, after which each hostile peer is closed anyway.
const BEFORE_A_TIMEOUT: Duration = Duration::from_secs(15);

/// The longest attack; without refusals it would take minutes.
const ATTACK: Duration = Duration::from_secs(60);

/// A server with few threads, under a service manager.
struct AttackedServer {
    cluster: Cluster,
    service: Service,
}

impl AttackedServer {
    fn new(limits: &str) -> Self {
        Self::with_threads(2, limits)
    }

    fn with_threads(threads: usize, limits: &str) -> Self {
        let limits = format!("[limits]\nthreads = {threads}\n{limits}\n");
        let cluster = Cluster::builder().k(K).config(&limits).create();
        let service = Service::start(&cluster, WATCHDOG_MICROSECONDS);
        service.wait_for_message("READY=1");
        Self { cluster, service }
    }

    fn greeted(&self) -> Wire {
        Wire::greeted(self.cluster.layout(), 0)
    }

    /// Sends pings and watches the watchdog notifications until the attack ends: neither waits
    /// longer than [`LONGEST`].
    fn serves_during(&self, name: &str, attack: impl FnOnce() + Send) {
        let _alone = support::one_at_a_time();
        let mut peer = self.greeted();
        let over = AtomicBool::new(false);
        let (pings, slowest, gap) = std::thread::scope(|scope| {
            scope.spawn(|| {
                // Also when an assertion in the attack fails.
                let _over = SetAtEnd(&over);
                attack();
            });
            let watchdog = scope.spawn(|| {
                let (mut last, mut gap) = (Instant::now(), Duration::ZERO);
                while !over.load(Ordering::Relaxed) {
                    let message = self
                        .service
                        .next_message_within(Duration::from_millis(100))
                        .unwrap_or_default();
                    gap = gap.max(last.elapsed());
                    if message.contains("WATCHDOG=1") {
                        last = Instant::now();
                    }
                }
                gap
            });
            let (mut pings, mut slowest) = (0_u64, Duration::ZERO);
            while !over.load(Ordering::Relaxed) {
                let began = Instant::now();
                pings += 1;
                peer.stream().set_read_timeout(Some(ATTACK)).unwrap();
                assert_eq!(peer.ask(pings, Request::Ping(b"here")).text(), "here");
                slowest = slowest.max(began.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
            (pings, slowest, watchdog.join().unwrap())
        });
        println!(
            "{name}: {pings} pings of another peer, the slowest took {slowest:?}; the watchdog sent nothing for {gap:?}"
        );
        assert!(slowest < LONGEST, "{name}: a ping took {slowest:?}");
        assert!(
            gap < LONGEST,
            "{name}: the watchdog sent nothing for {gap:?}"
        );
    }
}

/// Sets the flag when dropped.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends to all wires at once as far as the server reads, and waits until the server has answered
/// or closed each.
fn flood(wires: Vec<Wire>, bytes: &[u8]) {
    let deadline = Instant::now() + ATTACK;
    std::thread::scope(|scope| {
        for mut wire in wires {
            scope.spawn(move || {
                // A refused sender is disconnected in the middle.
                let _ = wire
                    .stream()
                    .write_all(bytes)
                    .and_then(|()| wire.stream().shutdown(Shutdown::Write));
                while Instant::now() < deadline && wire.try_reply().is_ok() {}
            });
        }
    });
}

fn long_copies(count: u64) -> Vec<u8> {
    let (from, to) = (
        Extent::new(0, MAX_ATOMIC, K).unwrap(),
        Extent::new(2 << 20, MAX_ATOMIC, K).unwrap(),
    );
    (1..=count)
        .flat_map(|id| encoded(id, MemoryChange::Copy { from, to }))
        .collect()
}

#[test]
fn a_flood_of_long_copies_delays_neither_another_peer_nor_the_watchdog() {
    let target = AttackedServer::new("");
    let wires = (0..24).map(|_| target.greeted()).collect();
    target.serves_during("24 peers with 6,500 copies of 1 MiB each", || {
        flood(wires, &long_copies(6500));
    });
}

#[test]
fn long_copies_inside_the_window_delay_neither_another_peer_nor_the_watchdog() {
    let target = AttackedServer::new("");
    let wires = (0..24).map(|_| target.greeted()).collect();
    target.serves_during("24 peers with 64 copies of 1 MiB each", || {
        flood(wires, &long_copies(64));
    });
}

/// A header that announces 1 MiB of data.
fn announce(opcode: Opcode, payload: u32) -> Vec<u8> {
    let mut header = RequestHeader::new(opcode, u64::from(opcode != Opcode::Hello));
    header.payload = payload.into();
    header.as_bytes().to_vec()
}

/// Another peer writes and reads the longest requests, on ten connections. `Err` says why one was
/// refused.
fn longest_requests(target: &AttackedServer) -> Result<(), String> {
    let extent = Extent::new(0, MAX_ATOMIC, K).unwrap();
    for round in 0..10 {
        let mut wire = target.greeted();
        let data = vec![round; extent.length()];
        let written = wire.ask(1, MemoryChange::Write(extent, &data));
        if written.code().is_some() {
            return Err(format!("write {round}: {}", written.text()));
        }
        let read = wire.ask(2, MemoryOperation::Read(extent));
        if read.code().is_some() {
            return Err(format!("read {round}: {}", read.text()));
        }
        assert!(read.payload == data, "round {round}: other bytes came back");
    }
    Ok(())
}

#[test]
fn a_connection_that_announces_a_long_hello_and_sends_none_takes_no_memory() {
    let target = AttackedServer::new("buffer_memory = \"64MiB\"");
    let longest = u32::try_from(MAX_HELLO).unwrap();
    let connect = |_| {
        let mut wire = Wire::connect(target.cluster.address(0));
        wire.send(&announce(Opcode::Hello, longest));
        wire
    };
    let wires: Vec<Wire> = (0..300).map(connect).collect();
    target.serves_during("300 peers that announce the longest hello", || {
        longest_requests(&target).unwrap();
    });
    drop(wires);
}

#[test]
fn an_impossible_hello_is_refused_by_its_header() {
    let target = AttackedServer::new("");
    for (opcode, code) in [
        (Opcode::Hello, Code::BadFrame),
        (Opcode::Write, Code::HelloExpected),
    ] {
        let mut wire = Wire::connect(target.cluster.address(0));
        wire.send(&announce(opcode, 1 << 20));
        wire.reply().assert_refused(code, &[]);
        wire.assert_closed();
    }
}

#[test]
fn a_request_that_announces_data_and_sends_none_takes_no_memory() {
    let target = AttackedServer::new("");
    let greeted = |_| {
        let mut wire = target.greeted();
        wire.send(&announce(Opcode::Write, 1 << 20));
        wire
    };
    let wires: Vec<Wire> = (0..300).map(greeted).collect();
    target.serves_during("300 peers that announce a write of 1 MiB", || {
        longest_requests(&target).unwrap();
    });
    drop(wires);
}

/// While the hostile peers take what they can, the memory may be used up for a moment; dsmd takes
/// it back long before any timeout.
fn gets_what_the_stalled_hold(target: &AttackedServer) {
    let began = Instant::now();
    wait_for(
        "ten longest requests of another peer",
        BEFORE_A_TIMEOUT,
        || longest_requests(target).is_ok(),
    );
    println!("another peer was served after {:?}", began.elapsed());
}

/// Lets this many peers request 64 MiB each and read nothing.
fn greedy(target: &AttackedServer, peers: usize) -> Vec<Wire> {
    let extent = Extent::new(0, MAX_ATOMIC, K).unwrap();
    let reads: Vec<u8> = (1..=64)
        .flat_map(|id| encoded(id, MemoryOperation::Read(extent)))
        .collect();
    let mut wires: Vec<Wire> = (0..peers).map(|_| target.greeted()).collect();
    wires.iter_mut().for_each(|wire| wire.send(&reads));
    wires
}

/// Whether the server has closed the connection without sending a refusal.
fn is_closed_without_refusal(wire: &Wire) -> bool {
    wire.stream().set_nonblocking(true).unwrap();
    let found = wire.stream().peek(&mut [0]);
    wire.stream().set_nonblocking(false).unwrap();
    matches!(found, Ok(0))
}

fn says_why(target: AttackedServer) {
    let log = target.service.log();
    let why = "other connections needed the memory of its buffers (raise limits.buffer_memory)";
    assert!(log.contains(why), "{log}");
    // The rate limit allows ten lines in ten seconds.
    assert!(log.lines().count() < 60, "{log}");
}

#[test]
fn peers_that_read_no_replies_lose_their_buffers_to_those_that_do() {
    let target = AttackedServer::new("");
    let wires = greedy(&target, 400);
    let mut healthy = target.greeted();
    let short = Extent::new(0, 64 << 10, K).unwrap();
    target.serves_during(
        "400 peers that ask for 64 MiB each and take nothing",
        || {
            for id in 1..=2000 {
                let reply = healthy.ask(id, MemoryOperation::Read(short));
                assert_eq!(
                    reply.code(),
                    None,
                    "read {id} of a healthy peer: {}",
                    reply.text()
                );
            }
        },
    );
    drop(wires);
}

#[test]
fn peers_with_dedicated_threads_that_read_no_replies_lose_their_buffers_too() {
    let target = AttackedServer::with_threads(32, "buffer_memory = \"8MiB\"");
    let wires = greedy(&target, 16);
    target.serves_during("16 peers with a thread each that take nothing", || {
        gets_what_the_stalled_hold(&target);
    });
    drop(wires);
    says_why(target);
}

#[test]
fn peers_that_do_not_complete_their_requests_lose_their_buffers_to_those_that_do() {
    let extent = Extent::new(0, MAX_ATOMIC, K).unwrap();
    let write = encoded(1, MemoryChange::Write(extent, &vec![0xee; extent.length()]));
    for threads in [2, 32] {
        let target = AttackedServer::with_threads(threads, "buffer_memory = \"8MiB\"");
        let mut wires: Vec<Wire> = Vec::new();
        // Peers connect until no memory is left and the first of them has been stalled long enough.
        wait_for("a stalled peer is closed", BEFORE_A_TIMEOUT, || {
            let mut wire = target.greeted();
            // A peer for which there is no memory is refused in the middle.
            let _ = wire.try_send(&write[..write.len() - 1]);
            wires.push(wire);
            wires.iter().any(is_closed_without_refusal)
        });
        let name = format!(
            "{} peers that send all but a byte, {threads} threads",
            wires.len()
        );
        target.serves_during(&name, || gets_what_the_stalled_hold(&target));
        drop(wires);
        says_why(target);
    }
}
