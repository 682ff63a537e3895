//! Peers that send and hold as much as they can hold up no other peer, and not the question of dsmd's watchdog.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

mod support;

use dsm::layout::MAX_ATOMIC;
use dsm::protocol::{Extent, Operation};
use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::Cluster;
use support::service::Service;
use support::wire::{Wire, encoded};

const K: u64 = 4 << 20;

/// What systemd is told to expect; dsmd asks itself three times as often.
const WATCHDOG_MICROSECONDS: &str = "300000";

/// The longest wait of another peer and of the watchdog. On an idle machine it is a few milliseconds; a hang is longer.
const LONGEST: Duration = Duration::from_secs(5);

/// The longest attack; those that are not refused would take minutes.
const ATTACK: Duration = Duration::from_secs(60);

/// A server with few threads, under a service manager.
struct Target {
    cluster: Cluster,
    service: Service,
}

impl Target {
    fn new(limits: &str) -> Self {
        let cluster = Cluster::builder().k(K).config(&format!("[limits]\nthreads = 2\n{limits}\n")).create();
        let service = Service::start(&cluster, WATCHDOG_MICROSECONDS);
        service.hear_until("READY=1");
        Self { cluster, service }
    }

    fn greeted(&self) -> Wire {
        Wire::greeted(self.cluster.layout(), 0)
    }

    /// Asks for pings, and listens to the watchdog, until the attack is over: neither waits longer than [`LONGEST`].
    fn serves_during(&self, name: &str, attack: impl FnOnce() + Send) {
        let mut peer = self.greeted();
        let over = AtomicBool::new(false);
        let (pings, slowest, gap) = std::thread::scope(|scope| {
            scope.spawn(|| {
                // Also when an assertion in it fails.
                let _over = SetAtEnd(&over);
                attack();
            });
            let watchdog = scope.spawn(|| {
                let (mut last, mut gap) = (Instant::now(), Duration::ZERO);
                while !over.load(Ordering::Relaxed) {
                    let message = self.service.hear_within(Duration::from_millis(100)).unwrap_or_default();
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
                assert_eq!(peer.ask(pings, Operation::Ping(b"here")).text(), "here");
                slowest = slowest.max(began.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
            (pings, slowest, watchdog.join().unwrap())
        });
        println!(
            "{name}: {pings} pings of another peer, the slowest took {slowest:?}; the watchdog was silent for {gap:?}"
        );
        assert!(slowest < LONGEST, "{name}: a ping took {slowest:?}");
        assert!(gap < LONGEST, "{name}: the watchdog was silent for {gap:?}");
    }
}

/// Sets the flag when dropped.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends to all wires at once, as far as the server takes it, and waits until it has answered, or closed, each.
fn flood(wires: Vec<Wire>, bytes: &[u8]) {
    let deadline = Instant::now() + ATTACK;
    std::thread::scope(|scope| {
        for mut wire in wires {
            scope.spawn(move || {
                // A refused sender is cut in the middle.
                let _ = wire.stream().write_all(bytes).and_then(|()| wire.stream().shutdown(Shutdown::Write));
                while Instant::now() < deadline && wire.try_reply().is_ok() {}
            });
        }
    });
}

fn long_copies(count: u64) -> Vec<u8> {
    let (from, to) = (Extent::new(0, MAX_ATOMIC, K).unwrap(), Extent::new(2 << 20, MAX_ATOMIC, K).unwrap());
    (1..=count).flat_map(|id| encoded(id, Operation::Copy { from, to })).collect()
}

#[test]
fn a_flood_of_long_copies_holds_up_neither_another_peer_nor_the_watchdog() {
    let target = Target::new("");
    let wires = (0..24).map(|_| target.greeted()).collect();
    target.serves_during("24 peers with 6,500 copies of 1 MiB each", || flood(wires, &long_copies(6500)));
}

#[test]
fn long_copies_inside_the_window_hold_up_neither_another_peer_nor_the_watchdog() {
    let target = Target::new("");
    let wires = (0..24).map(|_| target.greeted()).collect();
    target.serves_during("24 peers with 64 copies of 1 MiB each", || flood(wires, &long_copies(64)));
}
