//! A client that reads while a snapshot is restored gets bytes of the old memory, bytes of the new
//! one, or an error. It never gets a half-restored memory, nor the old memory of one server after
//! the new one of another.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use dsm_client::{Client, Error, ErrorKind, Reply};
use dsm_core::protocol::Code;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use support::random::Random;
use support::restores::TEST_TIMEOUT;
use support::{Cluster, client, wait_for};

/// Bytes of each server: several messages of a restore.
const K: u64 = 3 << 20;

const SERVERS: u64 = 3;

/// The most words that are read at a time.
const WORDS: u64 = 32 << 10;

/// Requests in flight in a pipeline.
const DEPTH: usize = 32;

/// The generations of the memory: before the restore, and in the snapshot.
const OLD: u64 = 2;
const NEW: u64 = 1;

/// A word that contains the generation of its memory and its address.
fn word(generation: u64, address: u64) -> u64 {
    generation << 56 | address
}

fn whole(generation: u64) -> Vec<u8> {
    (0..SERVERS * K)
        .step_by(8)
        .flat_map(|address| word(generation, address).to_le_bytes())
        .collect()
}

/// The generation that all of the bytes belong to.
fn generation(address: u64, bytes: &[u8]) -> u64 {
    let found = u64::from_le_bytes(bytes[..8].try_into().unwrap()) >> 56;
    for (address, bytes) in (address..).step_by(8).zip(bytes.chunks(8)) {
        let word_found = u64::from_le_bytes(bytes.try_into().unwrap());
        assert!(
            word_found == word(found, address),
            "{word_found:#x} at {address} of memory {found}"
        );
    }
    assert!([OLD, NEW].contains(&found), "memory {found}");
    found
}

/// How often one reader got each outcome.
#[derive(Debug, Default)]
struct Seen {
    old: AtomicU64,
    new: AtomicU64,
    restoring: AtomicU64,
    lost: AtomicU64,
}

/// The state that all readers share.
struct ReaderWatch<'a> {
    cluster: &'a Cluster,
    /// A reader has read a byte of the new memory: from now on no reader may get one of the old.
    new: AtomicBool,
    stop: AtomicBool,
}

impl ReaderWatch<'_> {
    /// Counts one outcome and checks that it is allowed. `early`: the request was made before any
    /// reader had seen the new memory.
    fn note(
        &self,
        seen: &Seen,
        knew: bool,
        early: bool,
        address: u64,
        outcome: Result<Vec<u8>, Error>,
    ) {
        let counter = match outcome {
            Ok(bytes) if generation(address, &bytes) == OLD => {
                assert!(
                    early,
                    "old bytes at {address} after a reader had seen new ones"
                );
                &seen.old
            }
            Ok(_) => {
                assert!(
                    !knew,
                    "new bytes at {address} for a client that knew the old memory"
                );
                self.new.store(true, Ordering::SeqCst);
                &seen.new
            }
            Err(error) if error.refusal() == Some(Code::Restoring) => &seen.restoring,
            Err(error) if error.kind() == ErrorKind::MemoryLost => &seen.lost,
            Err(error) => panic!("{error:?}"),
        };
        counter.fetch_add(1, Ordering::SeqCst);
    }

    fn is_early(&self) -> bool {
        !self.new.load(Ordering::SeqCst)
    }

    fn is_running(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    /// A client that has read from every server.
    fn connected_client(&self) -> Client {
        let client = client(self.cluster);
        (0..SERVERS).for_each(|server| drop(client.read(server * K, 8).unwrap()));
        client
    }

    /// Reads one range after the other, by a client that knew the old memory.
    fn read_as_one_who_knew(&self, random: &mut Random, seen: &Seen) {
        let client = self.connected_client();
        while self.is_running() {
            let (address, length) = range(random);
            let early = self.is_early();
            self.note(seen, true, early, address, client.read(address, length));
        }
    }

    /// Reads each range by a new client, which does not know the old memory.
    fn read_as_new_clients(&self, random: &mut Random, seen: &Seen) {
        while self.is_running() {
            let (address, length) = range(random);
            let early = self.is_early();
            self.note(
                seen,
                false,
                early,
                address,
                client(self.cluster).read(address, length),
            );
        }
    }

    /// Reads with many requests in flight, by a client that knew the old memory.
    fn read_ahead(&self, random: &mut Random, seen: &Seen) {
        let client = self.connected_client();
        let mut pipeline = client.pipeline();
        let mut asked = std::collections::VecDeque::new();
        while self.is_running() {
            let (address, length) = range(random);
            let (early, length) = (self.is_early(), length.min(4096));
            match pipeline.read(address, length) {
                Ok(()) => asked.push_back((early, address)),
                Err(error) => self.note(seen, true, early, address, Err(error)),
            }
            if asked.len() >= DEPTH {
                let ((early, address), outcome) =
                    (asked.pop_front().unwrap(), pipeline.next().unwrap());
                let bytes = outcome.map(|reply| match reply {
                    Reply::Data(bytes) => bytes,
                    other => panic!("{other:?}"),
                });
                self.note(seen, true, early, address, bytes);
            }
        }
    }
}

/// A random range of whole words of one server.
fn range(random: &mut Random) -> (u64, u64) {
    let words = random.within(1, WORDS);
    (
        random.within(0, SERVERS) * K + random.within(0, K / 8 - words) * 8,
        words * 8,
    )
}

#[test]
fn readers_get_the_old_memory_or_the_new_one_or_an_error() {
    let mut random = Random::new("readers");
    let cluster = Cluster::start(3, K);
    cluster.start_agents();
    // Stops the restore after it has begun, until the test continues it.
    cluster.restart_agent_with(1, &[("DSM_TEST_STOP_AT", "restoring")]);
    cluster.write_all(&whole(NEW));
    let file = cluster.snapshot();
    cluster.write_all(&whole(OLD));

    let watch = ReaderWatch {
        cluster: &cluster,
        new: AtomicBool::new(false),
        stop: AtomicBool::new(false),
    };
    let seen: [Seen; 4] = std::array::from_fn(|_| Seen::default());
    let all = |what: &str, counter: fn(&Seen) -> &AtomicU64, readers: &[Seen]| {
        let before: Vec<u64> = readers
            .iter()
            .map(|seen| counter(seen).load(Ordering::SeqCst))
            .collect();
        wait_for(what, TEST_TIMEOUT, || {
            readers
                .iter()
                .zip(&before)
                .all(|(seen, before)| counter(seen).load(Ordering::SeqCst) > *before)
        });
    };
    std::thread::scope(|scope| {
        let kinds = [
            ReaderWatch::read_as_one_who_knew,
            ReaderWatch::read_as_one_who_knew,
            ReaderWatch::read_ahead,
            ReaderWatch::read_as_new_clients,
        ];
        let readers: Vec<_> = kinds
            .into_iter()
            .zip(&seen)
            .map(|(read, seen)| {
                let (mut random, watch) = (random.fork(), &watch);
                scope.spawn(move || read(watch, &mut random, seen))
            })
            .collect();
        let _stop = StopAtTheEnd(&watch.stop);
        all(
            "every reader has read the old memory",
            |seen| &seen.old,
            &seen,
        );
        let restore = scope.spawn(|| cluster.restore(file.path(), ""));
        cluster.agent(1).wait_until_stopped();
        all(
            "every reader gets the error of a restore",
            |seen| &seen.restoring,
            &seen,
        );
        assert!(
            seen.iter().all(|seen| seen.new.load(Ordering::SeqCst) == 0),
            "a reader got a byte of the new memory too early"
        );
        (0..3).for_each(|server| cluster.assert_memory_closed(server));
        cluster
            .agent(1)
            .resume_until("the restore ends", || restore.is_finished());
        restore.join().unwrap().prints();
        all(
            "the clients that knew the old memory get the error that it is lost",
            |seen| &seen.lost,
            &seen[..3],
        );
        all(
            "new clients read the new memory",
            |seen| &seen.new,
            &seen[3..],
        );
        watch.stop.store(true, Ordering::SeqCst);
        readers
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
    });
    seen.iter().for_each(|seen| println!("{seen:?}"));
    assert!(cluster.read_all() == whole(NEW));
}

/// Ends the readers, also when the test fails.
struct StopAtTheEnd<'a>(&'a AtomicBool);

impl Drop for StopAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
