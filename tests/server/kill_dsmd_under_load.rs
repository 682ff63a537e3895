//! dsmd is killed at random moments under load, a hundred times (`DSM_TEST_KILLS` sets another
//! number). Eight writers lose nothing, readers see no partial write, a counter counts each add
//! once, and no call takes longer than a second after a restart.
//!
//! Each writer also keeps a pipeline of adds and small writes in flight, so that a kill finds
//! requests that were executed but not answered: a client that resends could execute those twice.

use dsm_client::{Client, Reply};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::block::{self, Label};
use support::counts::count_of;
use support::random::Random;
use support::{Cluster, client};

const WRITERS: usize = 8;
const READERS: usize = 2;

/// The bytes of each writer's region. Blocks are shorter, so that the ends of older blocks stay
/// behind them.
const REGION: u64 = 128 * 1024;
const LONGEST: u64 = 100 * 1024;
const COUNTER: u64 = WRITERS as u64 * REGION;

/// Requests that each writer has in flight besides its blocks, and the address of the words that
/// they write, one per writer.
const PIPELINED: usize = 64;
const WORDS: u64 = COUNTER + 4096;

/// The promise: no call takes longer after a restart.
const AFTER_RESTART: Duration = Duration::from_secs(1);

/// The state that the threads share.
struct SharedWorkload {
    began: Instant,
    stop: AtomicBool,
    /// Nanoseconds after `began` when dsmd was last ready.
    ready: AtomicU64,
    /// Per writer, the sequence of the block being written and of the last one acknowledged.
    writing: [AtomicU64; WRITERS],
    acknowledged: [AtomicU64; WRITERS],
    reads: AtomicU64,
    adds: AtomicU64,
    /// The longest call in nanoseconds: from its start, and from the last restart when that was
    /// later.
    longest: AtomicU64,
    longest_after_restart: AtomicU64,
}

impl SharedWorkload {
    #[allow(clippy::cast_possible_truncation)] // a test does not last 500 years
    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Makes a call and records how long it took.
    fn timed<T>(&self, call: impl FnOnce() -> Result<T, dsm_client::Error>) -> T {
        let start = self.now();
        let result = call();
        let end = self.now();
        let ready = self.ready.load(Ordering::SeqCst);
        self.longest.fetch_max(end - start, Ordering::Relaxed);
        self.longest_after_restart
            .fetch_max(end.saturating_sub(start.max(ready)), Ordering::Relaxed);
        result.unwrap_or_else(|error| {
            panic!(
                "a call failed after {:?}: {error}",
                Duration::from_nanos(end - start)
            )
        })
    }

    /// Has `PIPELINED` requests in flight at once. Returns their results.
    fn pipelined<'a>(
        &self,
        client: &Client,
        submit: impl FnOnce(&mut dsm_client::Pipeline<'a>),
    ) -> Vec<Reply> {
        self.timed(|| {
            let mut pipeline = client.pipeline();
            submit(&mut pipeline);
            pipeline.collect()
        })
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// Stops the others when a thread panics, so that the test fails at once.
struct StopOnPanic<'a>(&'a AtomicBool);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

fn write_and_count(shared: &SharedWorkload, client: &Client, writer: usize, mut random: Random) {
    let _guard = StopOnPanic(&shared.stop);
    let address = writer as u64 * REGION;
    for sequence in 1.. {
        if shared.stopped() {
            return;
        }
        let label = Label {
            writer: writer as u64,
            sequence,
            length: random.within(200, LONGEST + 1),
        };
        let data = block::make(label);
        shared.writing[writer].store(sequence, Ordering::SeqCst);
        shared.timed(|| client.write(address, &data));
        shared.acknowledged[writer].store(sequence, Ordering::SeqCst);
        let found = shared.timed(|| client.read(address, label.length));
        assert!(
            found == data,
            "writer {writer} does not find its block {label:?}: {:?}",
            block::check(&found)
        );
        shared.adds.fetch_add(1, Ordering::SeqCst);
        shared.timed(|| client.fetch_add(COUNTER, 1));
    }
}

/// Adds to the counter and overwrites a word of this writer in one pipeline, repeatedly. A write
/// that is executed twice brings back an older value; an add that is executed twice shows in the
/// end.
fn pipeline_and_count(shared: &SharedWorkload, client: &Client, writer: usize, mut random: Random) {
    let _guard = StopOnPanic(&shared.stop);
    let word = WORDS + 8 * writer as u64;
    let mut last = 0_u64;
    while !shared.stopped() {
        let values: Vec<[u8; 8]> = (last + 1..)
            .take(PIPELINED / 4)
            .map(u64::to_le_bytes)
            .collect();
        let expected = last..last + values.len() as u64;
        last = expected.end;
        shared
            .adds
            .fetch_add(PIPELINED as u64 / 2, Ordering::SeqCst);
        let found = shared.pipelined(client, |pipeline| {
            for value in &values {
                pipeline
                    .fetch_add(COUNTER, 1)
                    .expect("there is room in the pipeline");
                pipeline
                    .swap(word, u64::from_le_bytes(*value))
                    .expect("there is room in the pipeline");
                pipeline
                    .fetch_add(COUNTER, 1)
                    .expect("there is room in the pipeline");
                pipeline
                    .write(word, value)
                    .expect("there is room in the pipeline");
            }
        });
        for (replies, expected) in found.chunks(4).zip(expected) {
            assert_eq!(
                replies[1],
                Reply::Old(expected),
                "writer {writer}: an older value came back"
            );
            assert_eq!(replies[3], Reply::Done);
        }
        let counts = found
            .iter()
            .step_by(2)
            .map(|reply| if let Reply::Old(old) = reply { *old } else { 0 });
        assert!(
            counts.is_sorted_by(|before, after| before < after),
            "writer {writer}: the counter went back"
        );
        // Leaves the processors to the block writers for a while.
        std::thread::sleep(Duration::from_micros(random.within(0, 6000)));
    }
}

fn read_and_check(shared: &SharedWorkload, client: &Client, mut random: Random) {
    let _guard = StopOnPanic(&shared.stop);
    while !shared.stopped() {
        let writer = random.index(WRITERS);
        let before = shared.acknowledged[writer].load(Ordering::SeqCst);
        let region = shared.timed(|| client.read(writer as u64 * REGION, REGION));
        let after = shared.writing[writer].load(Ordering::SeqCst);
        let found = block::check(&region)
            .unwrap_or_else(|wrong| panic!("region of writer {writer}: {wrong}"));
        let sequence = found.map_or(0, |label| label.sequence);
        assert!(
            (before..=after).contains(&sequence),
            "writer {writer}: block {sequence} found, {before}..={after} due"
        );
        assert!(
            found.is_none_or(|label| label.writer == writer as u64),
            "writer {writer} finds {found:?}"
        );
        shared.reads.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until every writer has had a block acknowledged that it began after this call.
fn wait_for_every_writer(shared: &SharedWorkload) {
    let due: Vec<u64> = shared
        .writing
        .iter()
        .map(|sequence| sequence.load(Ordering::SeqCst) + 1)
        .collect();
    let since = Instant::now();
    for (writer, due) in due.into_iter().enumerate() {
        while shared.acknowledged[writer].load(Ordering::SeqCst) < due && !shared.stopped() {
            assert!(
                since.elapsed() < support::wire::TEST_TIMEOUT,
                "writer {writer} makes no progress after a restart"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_killed_dsmd_loses_no_write_shows_no_partial_write_and_counts_each_add_once() {
    let kills: u64 = count_of("DSM_TEST_KILLS", 100, 2000);
    let _alone = support::one_at_a_time();
    let mut random = Random::new("kill_dsmd_under_load");
    let cluster = Cluster::start(1, 2 * 1024 * 1024);
    let clients: Vec<Client> = (0..WRITERS + READERS).map(|_| client(&cluster)).collect();
    let shared = SharedWorkload {
        began: Instant::now(),
        stop: AtomicBool::new(false),
        ready: AtomicU64::new(0),
        writing: Default::default(),
        acknowledged: Default::default(),
        reads: AtomicU64::new(0),
        adds: AtomicU64::new(0),
        longest: AtomicU64::new(0),
        longest_after_restart: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        for (place, client) in clients.iter().enumerate() {
            let (shared, mut random) = (&shared, random.fork());
            if place < WRITERS {
                let other = random.fork();
                scope.spawn(move || write_and_count(shared, client, place, random));
                // The same client from another thread, as callers may.
                scope.spawn(move || pipeline_and_count(shared, client, place, other));
            } else {
                scope.spawn(move || read_and_check(shared, client, random));
            }
        }
        let _guard = StopOnPanic(&shared.stop);
        for kill in 1..=kills {
            std::thread::sleep(Duration::from_micros(random.within(5_000, 60_000)));
            if shared.stopped() {
                break;
            }
            cluster.kill(0);
            cluster.restart(0);
            shared.ready.store(shared.now(), Ordering::SeqCst);
            // Kills in quick succession could hide a call that hangs, so now and then every writer
            // must make progress.
            if kill % 10 == 0 {
                wait_for_every_writer(&shared);
            }
        }
        shared.stop.store(true, Ordering::SeqCst);
    });
    judge(&shared, &client(&cluster), kills);
}

fn judge(shared: &SharedWorkload, client: &Client, kills: u64) {
    let mut written = 0;
    for (writer, acknowledged) in shared.acknowledged.iter().enumerate() {
        let region = client
            .read(writer as u64 * REGION, REGION)
            .expect("the memory can be read");
        let found = block::check(&region)
            .expect("the last block is whole")
            .expect("there is a block");
        let last = acknowledged.load(Ordering::SeqCst);
        assert_eq!(
            (found.writer, found.sequence),
            (writer as u64, last),
            "an acknowledged write was lost"
        );
        written += last;
    }
    let counter = client
        .fetch_add(COUNTER, 0)
        .expect("the counter can be read");
    let adds = shared.adds.load(Ordering::SeqCst);
    let status = client.status(0).expect("the server answers");
    let duration =
        |nanoseconds: &AtomicU64| Duration::from_nanos(nanoseconds.load(Ordering::Relaxed));
    let (longest, after) = (
        duration(&shared.longest),
        duration(&shared.longest_after_restart),
    );
    println!(
        "kills {kills}; blocks acknowledged {written}, lost 0; reads checked {}, partial writes 0; adds called {adds}, \
         counter {counter}; deaths repaired {}, writes redone {}; longest call {longest:?}, after a restart {after:?}; {:?} in all",
        shared.reads.load(Ordering::Relaxed),
        status.recovery.repaired,
        status.recovery.redone_writes,
        shared.began.elapsed(),
    );
    assert_eq!(counter, adds, "each add counts exactly once");
    assert!(
        after <= AFTER_RESTART,
        "a call took {after:?} after the restart, more than {AFTER_RESTART:?}"
    );
    assert!(longest < Duration::from_secs(60), "a call took {longest:?}");
}
