//! Many clients read, write and change a few overlapping cells on three servers, which are killed
//! and restarted throughout. Then a checker looks, for each server, for an order of the operations
//! that explains every result.

use dsm_client::{Client, CompareAndSwap, Effect, Error, ErrorKind, Reply};
use dsm_core::protocol::AtomicOperation;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::counts::count;
use support::linearizability::{HistoryAction, HistoryEvent, SearchVerdict, check};
use support::random::Random;
use support::{Cluster, client};

const SERVERS: usize = 3;
const K: u64 = 128 * 4096;
const CLIENTS: usize = 8;
const OPERATIONS: usize = 4000;

/// The longest run of the clients, and the interval between two kills in milliseconds.
const DURATION: Duration = Duration::from_secs(25);
const BETWEEN_KILLS: Range<u64> = 50..300;

/// The deadline of a client with short timeouts: shorter than some restarts, so that outcomes
/// become unknown. Each unknown outcome makes the search longer, so a client gets at most
/// `MAX_UNKNOWN`; then it uses the normal deadline.
const SHORT_TIMEOUT: Duration = Duration::from_millis(25);
const MAX_UNKNOWN: usize = 4;

/// The most steps that the checker may take for one group of cells.
const STEPS: u64 = 20_000_000;

/// The cells of each segment: offset and length in bytes. A cell holds one value, repeated; only a
/// cell of 8 bytes can be changed by atomics. Cells of one group are adjacent.
const CELLS: [(u64, u64); 12] = [
    // Four words across a page boundary.
    (4096 - 16, 8),
    (4096 - 8, 8),
    (4096, 8),
    (4096 + 8, 8),
    // An extent over three pages: a word, a page, a word.
    (6 * 4096 - 8, 8),
    (6 * 4096, 4096),
    (7 * 4096, 8),
    // An extent over 66 pages. Copying it takes so long that a kill or another client often
    // interrupts it.
    (16 * 4096 - 8, 8),
    (16 * 4096, 64 * 4096),
    (80 * 4096, 8),
    // The ends of the segment: one request can touch the last word of a server and the first of the
    // next.
    (0, 8),
    (K - 8, 8),
];
const PAGE_GROUP: Range<usize> = 0..4;
const LONG_GROUP: Range<usize> = 4..7;
const WIDE_GROUP: Range<usize> = 7..10;
const FIRST: usize = 10;
const LAST: usize = 11;

/// Cells that are words, and the number of requests in a burst on one of them.
const WORDS: [usize; 8] = [0, 1, 2, 3, 4, 6, 7, 9];
const BURST: usize = 32;

fn bytes_of(range: Range<usize>) -> u64 {
    CELLS[range].iter().map(|(_, length)| length).sum()
}

fn address_of(server: usize, cell: usize) -> u64 {
    server as u64 * K + CELLS[cell].0
}

fn encode(first: usize, values: &[u64]) -> Vec<u8> {
    let lengths = CELLS[first..].iter().map(|(_, length)| length / 8);
    let words = values
        .iter()
        .zip(lengths)
        .flat_map(|(value, count)| (0..count).map(move |_| *value));
    words.flat_map(u64::to_le_bytes).collect()
}

fn decode(first: usize, count: usize, bytes: &[u8]) -> Vec<u64> {
    let mut rest = bytes;
    let values = CELLS[first..first + count].iter().map(|(offset, length)| {
        let (cell, others) =
            rest.split_at(usize::try_from(*length).expect("a cell fits the memory"));
        rest = others;
        // Since one value is repeated, every byte equals the one eight places later.
        assert!(
            cell[8..] == cell[..cell.len() - 8],
            "torn read: the cell at offset {offset} holds parts of several writes"
        );
        u64::from_le_bytes(cell[..8].try_into().expect("eight bytes"))
    });
    values.collect()
}

fn atomic(cell: usize, operation: AtomicOperation, old: Option<u64>) -> HistoryAction {
    HistoryAction::Atomic {
        cell,
        operation,
        old,
    }
}

/// Makes the calls of one client and records its part of the history, per server.
struct HistoryRecorder<'a> {
    id: usize,
    client: &'a Client,
    short_deadline: Option<&'a Client>,
    clock: &'a AtomicU64,
    random: Random,
    values: u64,
    history: [Vec<HistoryEvent>; SERVERS],
    unknown: usize,
    not_sent: usize,
    /// The value of each cell that this client saw last: a comparison with it often succeeds.
    seen: [[u64; CELLS.len()]; SERVERS],
}

impl HistoryRecorder<'_> {
    /// A value that no other client writes.
    fn value(&mut self) -> u64 {
        self.values += 1;
        ((self.id as u64 + 1) << 32) | self.values
    }

    /// Makes a call and records its events. `events` turns the result, or `None` for an unknown
    /// outcome, into actions: several when the call spans servers.
    fn record<T>(
        &mut self,
        call: impl FnOnce(&Client) -> Result<T, Error>,
        events: impl FnOnce(Option<T>) -> Vec<(usize, HistoryAction)>,
    ) {
        let short_deadline = self.short_deadline.filter(|_| self.unknown < MAX_UNKNOWN);
        let called = self.clock.fetch_add(1, Ordering::SeqCst);
        let result = call(short_deadline.unwrap_or(self.client));
        let returned = self.clock.fetch_add(1, Ordering::SeqCst);
        let (events, returned) = match result {
            Ok(result) => (events(Some(result)), Some(returned)),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::OutcomeUnknown | ErrorKind::Unavailable
                ) =>
            {
                assert!(
                    short_deadline.is_some(),
                    "client {}: no server was down for as long as its deadline: {error:?}",
                    self.id
                );
                match error.effect() {
                    // Such a call changed nothing. The checker relies on it, so that a wrong effect
                    // shows.
                    Effect::None => {
                        self.not_sent += 1;
                        (Vec::new(), None)
                    }
                    _ => (events(None), None),
                }
            }
            Err(error) => panic!("client {}: {error}", self.id),
        };
        self.unknown += usize::from(returned.is_none() && !events.is_empty());
        for (server, action) in events {
            self.look(server, &action);
            self.history[server].push(HistoryEvent {
                client: self.id,
                action,
                called,
                returned,
            });
        }
    }

    /// Sends many atomics on one word at once, so that a kill finds some that were executed but not
    /// answered.
    fn burst(&mut self, server: usize) {
        let cell = WORDS[self.random.index(WORDS.len())];
        let address = address_of(server, cell);
        let operations: Vec<AtomicOperation> = (0..BURST)
            .map(|_| match (self.random.index(3), self.value()) {
                (0, new) => AtomicOperation::Swap(new),
                (_, operand) => AtomicOperation::Add(operand),
            })
            .collect();
        self.record(
            |client| {
                let mut pipeline = client.pipeline();
                for operation in &operations {
                    match *operation {
                        AtomicOperation::Swap(new) => pipeline.swap(address, new)?,
                        AtomicOperation::Add(operand) => pipeline.fetch_add(address, operand)?,
                        _ => unreachable!("a burst has only these"),
                    }
                }
                pipeline.collect::<Result<Vec<Reply>, Error>>()
            },
            |replies| {
                let olds = replies
                    .expect("only clients with the normal deadline send bursts")
                    .into_iter()
                    .map(|reply| match reply {
                        Reply::Old(old) => Some(old),
                        other => panic!("an atomic found {other:?}"),
                    });
                operations
                    .iter()
                    .zip(olds)
                    .map(|(operation, old)| (server, atomic(cell, *operation, old)))
                    .collect()
            },
        );
    }

    fn look(&mut self, server: usize, action: &HistoryAction) {
        match action {
            HistoryAction::Read { first, values } | HistoryAction::Write { first, values } => {
                self.seen[server][*first..first + values.len()].copy_from_slice(values);
            }
            HistoryAction::Atomic {
                cell,
                operation,
                old: Some(old),
            } => {
                self.seen[server][*cell] = operation.apply(*old).unwrap_or(*old);
            }
            _ => {}
        }
    }

    fn read(&mut self, server: usize, cells: Range<usize>) {
        let (address, length) = (address_of(server, cells.start), bytes_of(cells.clone()));
        self.record(
            |client| client.read(address, length),
            |found| {
                let values = found.map(|bytes| decode(cells.start, cells.len(), &bytes));
                values
                    .map(|values| {
                        (
                            server,
                            HistoryAction::Read {
                                first: cells.start,
                                values,
                            },
                        )
                    })
                    .into_iter()
                    .collect()
            },
        );
    }

    fn write(&mut self, server: usize, cells: Range<usize>) {
        let values: Vec<u64> = cells.clone().map(|_| self.value()).collect();
        let data = encode(cells.start, &values);
        self.record(
            |client| client.write(address_of(server, cells.start), &data),
            |_| {
                vec![(
                    server,
                    HistoryAction::Write {
                        first: cells.start,
                        values,
                    },
                )]
            },
        );
    }

    fn atomic(&mut self, server: usize, cell: usize) {
        let operand = self.value();
        let expected = self.seen[server][cell];
        let operation = match self.random.index(6) {
            0 | 1 => AtomicOperation::Add(operand),
            2 => AtomicOperation::Swap(operand),
            3 => AtomicOperation::Xor(operand),
            _ => AtomicOperation::CompareAndSwap {
                expected,
                new: operand,
            },
        };
        let address = address_of(server, cell);
        self.record(
            |client| match operation {
                AtomicOperation::Add(operand) => client.fetch_add(address, operand),
                AtomicOperation::Swap(operand) => client.swap(address, operand),
                AtomicOperation::CompareAndSwap { expected, new } => {
                    client.compare_and_swap(address, CompareAndSwap { expected, new })
                }
                AtomicOperation::And(operand) => client.fetch_and(address, operand),
                AtomicOperation::Or(operand) => client.fetch_or(address, operand),
                AtomicOperation::Xor(operand) => client.fetch_xor(address, operand),
            },
            |old| vec![(server, atomic(cell, operation, old))],
        );
    }

    /// Copies inside the group of four words.
    fn copy(&mut self, server: usize) {
        let count = 1 + self.random.index(3);
        let (from, to) = (self.random.index(5 - count), self.random.index(5 - count));
        let length = bytes_of(from..from + count);
        self.record(
            |client| {
                client.copy(
                    address_of(server, from)..address_of(server, from) + length,
                    address_of(server, to),
                )
            },
            |_| vec![(server, HistoryAction::Copy { from, to, count })],
        );
    }

    /// Accesses the last word of a server and the first of the next in one call: two pieces, each
    /// atomic separately.
    fn across_servers(&mut self, server: usize, write: bool) {
        let next = server + 1;
        let address = address_of(server, LAST);
        if write {
            let values = [self.value(), self.value()];
            let data: Vec<u8> = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            self.record(
                |client| client.write(address, &data),
                |_| {
                    let piece = |first, value| HistoryAction::Write {
                        first,
                        values: vec![value],
                    };
                    vec![
                        (server, piece(LAST, values[0])),
                        (next, piece(FIRST, values[1])),
                    ]
                },
            );
        } else {
            self.record(
                |client| client.read(address, 16),
                |found| {
                    let Some(bytes) = found else {
                        return Vec::new();
                    };
                    let piece = |first, bytes: &[u8]| HistoryAction::Read {
                        first,
                        values: decode(first, 1, bytes),
                    };
                    vec![
                        (server, piece(LAST, &bytes[..8])),
                        (next, piece(FIRST, &bytes[8..])),
                    ]
                },
            );
        }
    }

    fn part_of(&mut self, group: Range<usize>) -> Range<usize> {
        let first = group.start + self.random.index(group.len());
        first..first + 1 + self.random.index(group.end - first)
    }

    fn step(&mut self) {
        let server = self.random.index(SERVERS);
        match self.random.index(20) {
            0..=2 => {
                let cells = self.part_of(PAGE_GROUP);
                self.read(server, cells);
            }
            3..=4 => {
                let cells = self.part_of(PAGE_GROUP);
                self.write(server, cells);
            }
            5 => self.copy(server),
            6..=8 => {
                let cell =
                    [WORDS.as_slice(), &[FIRST, LAST]].concat()[self.random.index(WORDS.len() + 2)];
                self.atomic(server, cell);
            }
            9..=10 => {
                let group = [LONG_GROUP, WIDE_GROUP][self.random.index(2)].clone();
                let cells = self.part_of(group);
                self.write(server, cells);
            }
            11..=12 => self.read(server, LONG_GROUP),
            13..=14 => self.read(server, WIDE_GROUP),
            15 => self.write(server, WIDE_GROUP),
            16..=18 if self.short_deadline.is_none() => self.burst(server),
            which => {
                let pair = self.random.index(SERVERS - 1);
                self.across_servers(pair, which % 2 == 1);
            }
        }
    }
}

/// Sets a flag when it is dropped, also when its thread panics.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_concurrent_history_with_kills_is_linearizable() {
    let _alone = support::one_at_a_time();
    // Several short histories, because the cost of checking a history grows faster than its length.
    for _ in 0..count(1, 10) {
        judge_one_history();
    }
}

fn judge_one_history() {
    let mut random = Random::new("linearizability");
    let cluster = Cluster::start(SERVERS, K);
    let clients: Vec<Client> = (0..CLIENTS).map(|_| client(&cluster)).collect();
    let short_deadline = client(&cluster).with_timeout(SHORT_TIMEOUT);
    let clock = AtomicU64::new(0);
    let began = Instant::now();
    let done: [AtomicBool; CLIENTS] = Default::default();
    let mut kills = 0;
    let recorders: Vec<HistoryRecorder<'_>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS)
            .map(|id| {
                // Two threads share a client and the others have one each; two use the short
                // timeout.
                let client = &clients[if id == 1 { 0 } else { id }];
                let mut recorder = HistoryRecorder {
                    id,
                    client,
                    short_deadline: (id >= CLIENTS - 2).then_some(&short_deadline),
                    clock: &clock,
                    random: random.fork(),
                    values: 0,
                    history: Default::default(),
                    unknown: 0,
                    not_sent: 0,
                    seen: Default::default(),
                };
                let flag = &done[id];
                scope.spawn(move || {
                    let _done = SetOnDrop(flag);
                    for _ in 0..OPERATIONS {
                        recorder.step();
                        if recorder.random.index(4) == 0 {
                            std::thread::sleep(Duration::from_micros(
                                recorder.random.within(0, 20_000),
                            ));
                        }
                        if began.elapsed() > DURATION {
                            break;
                        }
                    }
                    recorder
                })
            })
            .collect();
        while !done.iter().all(|flag| flag.load(Ordering::SeqCst)) {
            std::thread::sleep(Duration::from_millis(
                random.within(BETWEEN_KILLS.start, BETWEEN_KILLS.end),
            ));
            let server = random.index(SERVERS);
            cluster.kill(server);
            // Sometimes the server stays down for longer than the short timeout.
            std::thread::sleep(Duration::from_millis(random.within(0, 60)));
            cluster.restart(server);
            kills += 1;
        }
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no client fails"))
            .collect()
    });
    judge(&recorders, kills, began);
}

fn judge(recorders: &[HistoryRecorder<'_>], kills: u64, began: Instant) {
    let unknown: usize = recorders.iter().map(|recorder| recorder.unknown).sum();
    let not_sent: usize = recorders.iter().map(|recorder| recorder.not_sent).sum();
    println!(
        "{kills} kills in {:?}; outcomes unknown {unknown}, calls not sent {not_sent}",
        began.elapsed()
    );
    assert!(kills >= 3, "the history was over after {kills} kills");
    for server in 0..SERVERS {
        let history: Vec<HistoryEvent> = recorders
            .iter()
            .flat_map(|recorder| recorder.history[server].iter().cloned())
            .collect();
        let since = Instant::now();
        let verdict = check(&[0; CELLS.len()], &history, STEPS);
        println!(
            "server {server}: {} operations, {:?} to check",
            history.len(),
            since.elapsed()
        );
        match verdict {
            SearchVerdict::Linearizable => {}
            SearchVerdict::Violation(why) => panic!("server {server} is not linearizable: {why}"),
            SearchVerdict::Undecided { steps } => {
                panic!("server {server}: undecided after {steps} steps; examine the history")
            }
        }
    }
}
