//! A load that shows whether a snapshot is of one instant: each writer writes block i to each
//! server in a fixed order, and then block i + 1. At every instant, a server's block is no later
//! than that of the server before it in this order, and at most one behind: see [`check`].

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

/// The number of writers. They begin at different servers, and half of them use the reverse order.
const WRITERS: usize = 4;

/// The timeout of a writer's request. The test checks the measured times against its own bound.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of each writer's region on each server.
const REGION: usize = 16 * 1024;

/// The longest block of odd writers, which spans several pages, and of even ones, whose requests
/// are short.
const LONG: usize = 12 * 1024;
const SHORT: usize = 256;

/// Bytes at the start of each segment that the writers use.
pub const USED: u64 = (WRITERS * REGION) as u64;

/// The running writers. Stopping or dropping this ends them.
pub struct Ring {
    shared: Arc<RingState>,
    threads: Vec<JoinHandle<()>>,
}

struct RingState {
    stop: AtomicBool,
    began: Instant,
    servers: Vec<Server>,
    /// The number of complete rounds of each writer.
    rounds: [AtomicU64; WRITERS],
}

/// What the writers have measured at one server.
#[derive(Default)]
struct Server {
    /// When the server was last ready, in nanoseconds since `began`; 0 if it was never restarted.
    ready: AtomicU64,
    /// The longest request in nanoseconds, without the time before the server was ready.
    longest: AtomicU64,
}

impl Ring {
    /// Starts the writers, and waits until each makes progress.
    pub fn start(cluster: &Cluster) -> Self {
        let servers = (0..cluster.n()).map(|_| Server::default()).collect();
        let (stop, began, rounds) = (AtomicBool::new(false), Instant::now(), Default::default());
        let shared = Arc::new(RingState {
            stop,
            began,
            servers,
            rounds,
        });
        let mut random = Random::new("ring");
        let threads = (0..WRITERS).map(|writer| {
            let (shared, client, k, random) = (
                Arc::clone(&shared),
                client(cluster).with_timeout(REQUEST_TIMEOUT),
                cluster.layout().share_size(),
                random.fork(),
            );
            std::thread::spawn(move || go_round(&shared, &client, k, writer, random))
        });
        let ring = Self {
            threads: threads.collect(),
            shared,
        };
        ring.wait_until_all_progress();
        ring
    }

    /// Waits until every writer has sent a request to every server and received the reply, both
    /// after this call.
    ///
    /// # Panics
    /// When a writer makes no progress.
    pub fn wait_until_all_progress(&self) {
        let rounds = || {
            self.shared
                .rounds
                .iter()
                .map(|rounds| rounds.load(Ordering::SeqCst))
        };
        // The first round to end may have begun before this call.
        let due: Vec<u64> = rounds().map(|rounds| rounds + 2).collect();
        super::wait_for(
            "every writer makes progress at every server",
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

    /// Marks a killed server as ready again: the time that requests waited for it before this call
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

    /// The number of complete rounds of all writers.
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
    /// When a writer has failed.
    pub fn stop(mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().expect("a writer that has not failed");
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

impl RingState {
    #[allow(clippy::cast_possible_truncation)] // a test does not last 500 years
    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }
}

fn go_round(shared: &RingState, client: &Client, k: u64, writer: usize, mut random: Random) {
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

/// The servers in the order in which a writer writes to them.
fn round(writer: usize, servers: usize) -> impl Iterator<Item = usize> {
    let backwards = writer % 4 >= 2;
    (0..servers).map(move |step| (writer + if backwards { servers - step } else { step }) % servers)
}

/// Checks that a snapshot file is whole and of one instant.
///
/// # Panics
/// When the file is not.
#[allow(clippy::cast_possible_truncation)] // memories of tests are small
pub fn check_snapshot(path: &Path) {
    let read = |file: SnapshotFile| {
        file.verify(|_, _| {})?;
        let mut memory = vec![0; file.header().layout().size() as usize];
        file.read_range(0, &mut memory)
            .map(|()| check(&memory, file.header().layout().share_size() as usize))
    };
    let wrong = SnapshotFile::open(path)
        .and_then(read)
        .expect("a whole snapshot");
    assert!(wrong.is_empty(), "{}: {wrong:?}", path.display());
}

/// Checks a memory that the writers have used, with segments of `k` bytes. Returns why it cannot be
/// of one instant; empty if it can.
///
/// # Panics
/// When a block is not whole: even a single server has a half-written block at no instant.
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
        let valid = blocks.is_sorted_by(|before, after| before >= after)
            && blocks[0] - blocks[servers - 1] <= 1;
        (!valid).then(|| {
            format!(
                "writer {writer}, in the order of its writes, has {blocks:?} at servers {order:?}"
            )
        })
    });
    found.flatten().collect()
}
