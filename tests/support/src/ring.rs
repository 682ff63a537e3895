//! Load whose order shows: each writer writes block i to one server, then to the next, and so on
//! round all of them, and then block i + 1. So at every instant no server has a later block than
//! the one before it in the writer's round, and none is more than one behind: see [`check`].

use super::block::{self, Label, SHORTEST};
use super::random::Random;
use super::{Cluster, client};
use dsm_client::Client;
use dsm_snapshot::SnapshotFile;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How many write. Every other one goes round the other way, and begins at another server than its
/// neighbour.
const WRITERS: usize = 4;

/// How long a writer waits for an answer. How long it had to is measured, and judged by the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that each writer has to itself on each server.
const REGION: usize = 16 * 1024;

/// The longest block of every other writer: so it spans several pages. The others' are short, for
/// short requests.
const LONG: usize = 12 * 1024;
const SHORT: usize = 256;

/// Bytes at the start of each segment that the writers use; the rest is free.
pub const USED: u64 = (WRITERS * REGION) as u64;

/// The writers, until this is stopped or dropped.
pub struct Ring {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    began: Instant,
    servers: Vec<Server>,
    /// Each writer's rounds.
    rounds: [AtomicU64; WRITERS],
}

/// What the writers have met at one server.
#[derive(Default)]
struct Server {
    /// Nanoseconds after the beginning when it was last made ready; 0 if it never stopped.
    ready: AtomicU64,
    /// The longest request in nanoseconds, without the time before it was ready.
    longest: AtomicU64,
}

impl Ring {
    /// Begins to write, and waits until all get on.
    pub fn start(cluster: &Cluster) -> Self {
        let servers = (0..cluster.n()).map(|_| Server::default()).collect();
        let (stop, began, rounds) = (AtomicBool::new(false), Instant::now(), Default::default());
        let shared = Arc::new(Shared {
            stop,
            began,
            servers,
            rounds,
        });
        let mut random = Random::new("ring");
        let threads = (0..WRITERS).map(|writer| {
            let (shared, client, k, random) = (
                Arc::clone(&shared),
                client(cluster).with_timeout(PATIENCE),
                cluster.layout().k(),
                random.fork(),
            );
            std::thread::spawn(move || go_round(&shared, &client, k, writer, random))
        });
        let ring = Self {
            threads: threads.collect(),
            shared,
        };
        ring.wait_until_all_get_on();
        ring
    }

    /// Waits until every writer has begun and ended a request at every server since this call.
    ///
    /// # Panics
    /// When one does not get on.
    pub fn wait_until_all_get_on(&self) {
        let rounds = || {
            self.shared
                .rounds
                .iter()
                .map(|rounds| rounds.load(Ordering::SeqCst))
        };
        // The first round that ends may have begun before.
        let due: Vec<u64> = rounds().map(|rounds| rounds + 2).collect();
        super::wait_for(
            "every writer gets on at every server",
            Duration::from_secs(20),
            || {
                assert!(
                    !self.shared.stop.load(Ordering::SeqCst),
                    "a writer has failed"
                );
                rounds().zip(&due).all(|(rounds, due)| rounds >= *due)
            },
        );
    }

    /// Tells that a server that was killed listens again: how long a request waited for it before
    /// does not count.
    pub fn is_ready(&self, server: usize) {
        self.shared.servers[server]
            .ready
            .store(self.shared.now(), Ordering::SeqCst);
    }

    /// The longest request at each server since the last call.
    pub fn take_longest(&self) -> Vec<Duration> {
        let take = |server: &Server| Duration::from_nanos(server.longest.swap(0, Ordering::SeqCst));
        self.shared.servers.iter().map(take).collect()
    }

    /// How many rounds there were.
    pub fn rounds(&self) -> u64 {
        self.shared
            .rounds
            .iter()
            .map(|rounds| rounds.load(Ordering::SeqCst))
            .sum()
    }

    /// Ends the writers.
    ///
    /// # Panics
    /// When one has failed.
    pub fn stop(mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().expect("a writer that did not fail");
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

impl Shared {
    #[allow(clippy::cast_possible_truncation)] // a test does not last 500 years
    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }
}

fn go_round(shared: &Shared, client: &Client, k: u64, writer: usize, mut random: Random) {
    let longest = if writer.is_multiple_of(2) {
        SHORT
    } else {
        LONG
    };
    for sequence in 1.. {
        for server in round(writer, shared.servers.len()) {
            if shared.stop.load(Ordering::SeqCst) {
                return;
            }
            let length = random.within(SHORTEST as u64, longest as u64);
            let data = block::make(Label {
                writer: writer as u64,
                sequence,
                length,
            });
            let (begin, found) = (
                shared.now(),
                client.write(server as u64 * k + (writer * REGION) as u64, &data),
            );
            if let Err(error) = found {
                shared.stop.store(true, Ordering::SeqCst);
                panic!("block {sequence} of writer {writer} at server {server}: {error}");
            }
            let (end, server) = (shared.now(), &shared.servers[server]);
            let begin = begin.max(server.ready.load(Ordering::SeqCst));
            server
                .longest
                .fetch_max(end.saturating_sub(begin), Ordering::SeqCst);
        }
        shared.rounds[writer].store(sequence, Ordering::SeqCst);
    }
}

/// The servers in the order in which a writer comes to them.
fn round(writer: usize, servers: usize) -> impl Iterator<Item = usize> {
    let backwards = writer % 4 >= 2;
    (0..servers).map(move |step| (writer + if backwards { servers - step } else { step }) % servers)
}

/// Checks that a snapshot is whole, and of one instant.
///
/// # Panics
/// When it is not.
#[allow(clippy::cast_possible_truncation)] // memories of tests are small
pub fn check_snapshot(path: &Path) {
    let read = |file: SnapshotFile| {
        file.verify(|_, _| {})?;
        let mut memory = vec![0; file.header().layout().size() as usize];
        file.read_range(0, &mut memory)
            .map(|()| check(&memory, file.header().layout().k() as usize))
    };
    let wrong = SnapshotFile::open(path)
        .and_then(read)
        .expect("a whole snapshot");
    assert!(wrong.is_empty(), "{}: {wrong:?}", path.display());
}

/// What is wrong with a memory that the writers have written to, of segments of `k` bytes, if it is
/// that of an instant.
///
/// # Panics
/// When a block is not whole: no instant, of one server even, has such a one.
pub fn check(memory: &[u8], k: usize) -> Vec<String> {
    let servers = memory.len() / k;
    let sequence = |writer: usize, server: usize| {
        let region = &memory[server * k + writer * REGION..][..REGION];
        let label = block::check(region)
            .unwrap_or_else(|wrong| panic!("writer {writer} at server {server}: {wrong}"));
        label.map_or(0, |label| {
            assert_eq!(
                label.writer, writer as u64,
                "another's block at server {server}"
            );
            label.sequence
        })
    };
    let found = (0..WRITERS).map(|writer| {
        let order: Vec<usize> = round(writer, servers).collect();
        let blocks: Vec<u64> = order
            .iter()
            .map(|server| sequence(writer, *server))
            .collect();
        let sound = blocks.is_sorted_by(|before, after| before >= after)
            && blocks[0] - blocks[servers - 1] <= 1;
        (!sound).then(|| {
            format!(
                "writer {writer}, in the order of its writes, has {blocks:?} at servers {order:?}"
            )
        })
    });
    found.flatten().collect()
}
