//! Local clients, each a process that is killed anywhere, and clients over TCP work on a few
//! overlapping cells of one server, which is killed and restarted again and again. A checker then
//! looks for an order of the requests that explains every result.
#![cfg(debug_assertions)]
// The lint exempts #[test] functions, not the helpers that they call.
#![allow(clippy::unwrap_used)]

use dsm_client::{Client, CompareAndSwap, DataPath, Error};
use dsm_core::protocol::{AtomicOperation, Word};
use dsm_core::segment::crash::{self, Point};
use dsm_core::segment::{Segment, Worker};
use nix::sys::signal::{Signal, raise};
use nix::time::{ClockId, clock_gettime};
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};
use support::counts::count;
use support::linearizability::{HistoryAction, HistoryEvent, SearchVerdict, check};
use support::random::Random;
use support::{Cluster, client, local_client, own_process, wait_for};

const K: u64 = 128 * 4096;

/// The number of processes at a time, each replaced by another when it is killed; and the number of
/// clients over TCP.
const PROCESSES: usize = 3;
const REMOTE: usize = 2;

/// How long all of them run; how long a process lives, in ms, unless it is killed in its critical
/// section before; and the time between two kills of the server, in ms.
const DURATION: Duration = Duration::from_secs(8);
const LIFETIME: Range<u64> = 50..900;
const BETWEEN_KILLS: Range<u64> = 100..500;

/// The steps that the checker may take for one group of cells.
const STEPS: u64 = 20_000_000;

/// The offset and length of each cell, which holds one value, repeated: four words across a page
/// boundary; then a word, 64 pages and a word, whose copy takes so long that a kill or another
/// client often interrupts it.
const CELLS: [(u64, u64); 7] = [
    (4096 - 16, 8),
    (4096 - 8, 8),
    (4096, 8),
    (4096 + 8, 8),
    (16 * 4096 - 8, 8),
    (16 * 4096, 64 * 4096),
    (80 * 4096, 8),
];
const WORDS: Range<usize> = 0..4;
const WIDE: Range<usize> = 4..7;

/// The next request: an [`HistoryAction`] without its result. A `Read` has as many values as it reads, all
/// zero.
fn plan(
    random: &mut Random,
    mut value: impl FnMut() -> u64,
    seen: &[u64; CELLS.len()],
) -> HistoryAction {
    let group = [WORDS, WIDE][random.index(2)].clone();
    let first = group.start + random.index(group.len());
    let count = 1 + random.index(group.end - first);
    match random.index(8) {
        0..=2 => HistoryAction::Read {
            first: group.start,
            values: vec![0; group.len()],
        },
        3..=4 => HistoryAction::Write {
            first,
            values: (0..count).map(|_| value()).collect(),
        },
        5 => {
            let count = 1 + random.index(3);
            HistoryAction::Copy {
                from: random.index(5 - count),
                to: random.index(5 - count),
                count,
            }
        }
        _ => {
            let cell = [0, 1, 2, 3, 4, 6][random.index(6)];
            let operation = match random.index(4) {
                0 => AtomicOperation::Add(value()),
                1 => AtomicOperation::Swap(value()),
                2 => AtomicOperation::Xor(value()),
                _ => AtomicOperation::CompareAndSwap {
                    expected: seen[cell],
                    new: value(),
                },
            };
            HistoryAction::Atomic {
                cell,
                operation,
                old: None,
            }
        }
    }
}

fn length(cells: Range<usize>) -> u64 {
    CELLS[cells].iter().map(|(_, length)| length).sum()
}

/// Carries out the request, and returns the values that it has found.
fn carry_out(client: &Client, action: &HistoryAction) -> Result<Vec<u64>, Error> {
    let address = |cell: usize| CELLS[cell].0;
    match action {
        HistoryAction::Read { first, values } => {
            let cells = *first..first + values.len();
            let bytes = client.read(address(*first), length(cells.clone()))?;
            let mut rest = bytes.as_slice();
            let value = |cell: usize| {
                let (bytes, others) = rest.split_at(usize::try_from(CELLS[cell].1).unwrap());
                rest = others;
                assert!(
                    bytes[8..] == bytes[..bytes.len() - 8],
                    "torn read: cell {cell} is of several writes"
                );
                u64::from_le_bytes(*bytes.first_chunk().unwrap())
            };
            Ok(cells.map(value).collect())
        }
        HistoryAction::Write { first, values } => {
            let of = |(value, (_, length)): (&u64, &(u64, u64))| {
                value
                    .to_le_bytes()
                    .repeat(usize::try_from(length / 8).unwrap())
            };
            let data: Vec<u8> = values.iter().zip(&CELLS[*first..]).flat_map(of).collect();
            client.write(address(*first), &data).map(|()| Vec::new())
        }
        HistoryAction::Copy { from, to, count } => client
            .copy(
                address(*from)..address(*from) + length(*from..from + count),
                address(*to),
            )
            .map(|()| Vec::new()),
        HistoryAction::Atomic {
            cell, operation, ..
        } => {
            let address = address(*cell);
            let old = match *operation {
                AtomicOperation::Add(operand) => client.fetch_add(address, operand)?,
                AtomicOperation::Swap(new) => client.swap(address, new)?,
                AtomicOperation::CompareAndSwap { expected, new } => {
                    client.compare_and_swap(address, CompareAndSwap { expected, new })?
                }
                AtomicOperation::Xor(operand) => client.fetch_xor(address, operand)?,
                other => panic!("no plan has {other:?}"),
            };
            Ok(vec![old])
        }
        HistoryAction::Interrupted(_) => panic!("no plan has this"),
    }
}

/// The action with its result; `None` for a read without one.
fn with_result(action: HistoryAction, found: Option<&[u64]>) -> Option<HistoryAction> {
    match (action, found) {
        (HistoryAction::Read { .. }, None) => None,
        (HistoryAction::Read { first, .. }, Some(found)) => Some(HistoryAction::Read {
            first,
            values: found.to_vec(),
        }),
        (
            HistoryAction::Atomic {
                cell, operation, ..
            },
            found,
        ) => Some(HistoryAction::Atomic {
            cell,
            operation,
            old: found.map(|found| found[0]),
        }),
        (action, _) => Some(action),
    }
}

/// Updates the values that a client has seen last.
fn remember(seen: &mut [u64; CELLS.len()], action: &HistoryAction, found: &[u64]) {
    match action {
        HistoryAction::Read { first, .. } => {
            seen[*first..first + found.len()].copy_from_slice(found);
        }
        HistoryAction::Write { first, values } => {
            seen[*first..first + values.len()].copy_from_slice(values);
        }
        HistoryAction::Atomic {
            cell, operation, ..
        } => seen[*cell] = operation.apply(found[0]).unwrap_or(found[0]),
        HistoryAction::Copy { .. } | HistoryAction::Interrupted(_) => {}
    }
}

/// Nanoseconds, the same for every process.
fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    u64::try_from(now.tv_sec()).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap()
}

/// Makes requests until `is_over`, and reports each one before it and after it.
fn work(
    client: &Client,
    id: u64,
    start: u64,
    mut is_over: impl FnMut() -> bool,
    mut report: impl FnMut(u64, &HistoryAction, Option<&[u64]>),
) {
    let (mut random, mut values, mut seen) = (Random::seeded(start), 0, [0; CELLS.len()]);
    while !is_over() {
        let action = plan(
            &mut random,
            || {
                values += 1;
                (id << 32) | values
            },
            &seen,
        );
        report(now(), &action, None);
        let found =
            carry_out(client, &action).unwrap_or_else(|error| panic!("client {id}: {error}"));
        report(now(), &action, Some(&found));
        remember(&mut seen, &action, &found);
        if random.index(2) == 0 {
            std::thread::sleep(Duration::from_micros(random.within(0, 2000)));
        }
    }
}

/// Not a test by itself: the body of the processes that are killed. Each prints a line before and
/// after each request.
#[test]
fn local_process() {
    let Ok(words) = std::env::var("LOCAL_PROCESS") else {
        return;
    };
    let words: Vec<u64> = words.split(' ').map(|word| word.parse().unwrap()).collect();
    let [id, seed, life] = words[..] else {
        panic!("{words:?}")
    };
    let config = dsm_config::Config::load(&dsm_config::Config::find(None)).unwrap();
    let client = Client::new(&config);
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(life));
        raise(Signal::SIGKILL).unwrap();
    });
    // Half of the processes die earlier, at a point in the critical section.
    let began = Instant::now();
    let point = Point::ALL[usize::try_from(seed % 7).unwrap()];
    let mut armed = seed % 2 == 0;
    work(
        &client,
        id,
        seed,
        || {
            if armed && began.elapsed() > Duration::from_millis(life / 2) {
                armed = false;
                crash::arm(point, crash::Action::Die);
            }
            false
        },
        |at, action, found| {
            let is_local = client.data_path(0) == Ok(DataPath::Local);
            println!(
                "\n@{}",
                serde_json::json!([at, is_local, encode(action), found])
            );
        },
    );
}

fn encode(action: &HistoryAction) -> serde_json::Value {
    match action {
        HistoryAction::Read { first, values } => serde_json::json!(["read", first, values]),
        HistoryAction::Write { first, values } => serde_json::json!(["write", first, values]),
        HistoryAction::Copy { from, to, count } => serde_json::json!(["copy", from, [to, count]]),
        HistoryAction::Atomic {
            cell, operation, ..
        } => {
            let (name, operands) = match *operation {
                AtomicOperation::Add(operand) => ("add", vec![operand]),
                AtomicOperation::Swap(new) => ("swap", vec![new]),
                AtomicOperation::Xor(operand) => ("xor", vec![operand]),
                AtomicOperation::CompareAndSwap { expected, new } => ("cas", vec![expected, new]),
                other => panic!("no plan has {other:?}"),
            };
            serde_json::json!([name, cell, operands])
        }
        HistoryAction::Interrupted(_) => panic!("no plan has this"),
    }
}

fn decode(name: &str, first: usize, values: Vec<u64>) -> HistoryAction {
    let index = |position: usize| usize::try_from(values[position]).unwrap();
    let atomic = |operation| HistoryAction::Atomic {
        cell: first,
        operation,
        old: None,
    };
    match name {
        "read" => HistoryAction::Read { first, values },
        "write" => HistoryAction::Write { first, values },
        "copy" => HistoryAction::Copy {
            from: first,
            to: index(0),
            count: index(1),
        },
        "add" => atomic(AtomicOperation::Add(values[0])),
        "swap" => atomic(AtomicOperation::Swap(values[0])),
        "xor" => atomic(AtomicOperation::Xor(values[0])),
        "cas" => atomic(AtomicOperation::CompareAndSwap {
            expected: values[0],
            new: values[1],
        }),
        other => panic!("{other}"),
    }
}

/// What a process reports before a request and after it: the time, whether the request goes through
/// the shared memory, the request, and the values that it has found.
type ProcessReport = (u64, bool, (String, usize, Vec<u64>), Option<Vec<u64>>);

/// The server that is killed and restarted.
struct KilledServer {
    cluster: Cluster,
    /// The number of times that dsmd was killed.
    kills: AtomicUsize,
    /// When dsmd was ready again; zero while it is not running.
    up_since: AtomicU64,
}

impl KilledServer {
    fn was_up_since(&self, instant: u64) -> bool {
        (1..=instant).contains(&self.up_since.load(Ordering::SeqCst))
    }
}

/// Starts one process, and returns the events of its life until it was killed.
fn run_process(
    server: &KilledServer,
    worker: &mut Worker,
    id: usize,
    random: &mut Random,
) -> Vec<HistoryEvent> {
    let (seed, life) = (random.next(), random.within(LIFETIME.start, LIFETIME.end));
    let mut child = own_process::command(module_path!(), "local_process")
        .env("LOCAL_PROCESS", format!("{id} {seed} {life}"))
        .env("DSM_CONFIG", server.cluster.config_path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut events, mut called) = (Vec::new(), None);
    for line in BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
    {
        let Some((at, is_local, (name, first, values), found)) = line
            .strip_prefix('@')
            .and_then(|line| serde_json::from_str::<ProcessReport>(line).ok())
        else {
            continue;
        };
        let action = decode(&name, first, values);
        match (called.take(), found) {
            (None, None) => called = Some((at, is_local, action)),
            (Some((called, _, action)), Some(found)) => {
                let action = with_result(action, Some(&found)).unwrap();
                events.push(HistoryEvent {
                    client: id,
                    action,
                    called,
                    returned: Some(at),
                });
            }
            other => panic!("process {id} reported {other:?}"),
        }
    }
    let status = child.wait().unwrap();
    assert_eq!(
        status.signal(),
        Some(Signal::SIGKILL as i32),
        "process {id} failed: {status}"
    );
    if called
        .as_ref()
        .is_some_and(|(at, is_local, _)| !is_local || !server.was_up_since(*at))
    {
        // The process may have sent its request over TCP. A dsmd that has received it may carry it
        // out at any time until it is killed too.
        let kills = server.kills.load(Ordering::SeqCst);
        wait_for("dsmd to be killed again", Duration::from_secs(60), || {
            server.kills.load(Ordering::SeqCst) > kills
        });
    }
    // A worker that takes every stripe repairs the writes of dead processes: afterwards each of
    // them has taken effect, or never will.
    for page in 0..64 {
        worker
            .atomic(
                Word::new(page * 4096, K).unwrap(),
                AtomicOperation::Or(0),
                None,
            )
            .unwrap();
    }
    if let Some((called, _, action)) = called
        && let Some(action) = with_result(action, None)
    {
        let action = HistoryAction::Interrupted(Box::new(action));
        events.push(HistoryEvent {
            client: id,
            action,
            called,
            returned: Some(now()),
        });
    }
    events
}

/// Runs a client over TCP until `end`, and returns its events.
fn run_remote_client(client: &Client, id: usize, seed: u64, end: Instant) -> Vec<HistoryEvent> {
    let (mut events, mut called) = (Vec::new(), 0);
    work(
        client,
        id as u64,
        seed,
        || Instant::now() >= end,
        |at, action, found| match found {
            None => called = at,
            Some(found) => {
                let action = with_result(action.clone(), Some(found)).unwrap();
                events.push(HistoryEvent {
                    client: id,
                    action,
                    called,
                    returned: Some(at),
                });
            }
        },
    );
    events
}

#[test]
fn a_history_of_local_and_remote_clients_with_kills_of_both_sides_is_linearizable() {
    // Several short histories: the time to check one grows faster than its length.
    for _ in 0..count(1, 10) {
        check_one_history();
    }
}

fn check_one_history() {
    let mut random = Random::new("local_linearizability");
    let cluster = Cluster::builder().k(K).local().start();
    let server = KilledServer {
        cluster,
        kills: AtomicUsize::new(0),
        up_since: AtomicU64::new(now()),
    };
    let KilledServer {
        cluster,
        kills,
        up_since,
    } = &server;
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let end = Instant::now() + DURATION;
    let ids = AtomicUsize::new(1);
    let next_id = || ids.fetch_add(1, Ordering::SeqCst);
    let histories: Vec<Vec<HistoryEvent>> = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for _ in 0..PROCESSES {
            let (server, segment, mut random, next_id) =
                (&server, &segment, random.fork(), &next_id);
            threads.push(scope.spawn(move || {
                let (mut events, mut worker) = (Vec::new(), segment.worker().unwrap());
                while Instant::now() < end {
                    events.extend(run_process(server, &mut worker, next_id(), &mut random));
                }
                events
            }));
        }
        for _ in 0..REMOTE {
            let (client, id, seed) = (
                client(cluster).with_timeout(Duration::from_secs(20)),
                next_id(),
                random.next(),
            );
            threads.push(scope.spawn(move || run_remote_client(&client, id, seed, end)));
        }
        // A process that died with a request over TCP waits for the next kill.
        while !threads.iter().all(ScopedJoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(
                random.within(BETWEEN_KILLS.start, BETWEEN_KILLS.end),
            ));
            up_since.store(0, Ordering::SeqCst);
            cluster.kill(0);
            kills.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(random.within(0, 60)));
            cluster.start_server(0);
            up_since.store(now(), Ordering::SeqCst);
        }
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no client fails"))
            .collect()
    });
    let history: Vec<HistoryEvent> = histories.into_iter().flatten().collect();
    let unknown = history
        .iter()
        .filter(|event| matches!(event.action, HistoryAction::Interrupted(_)))
        .count();
    let status = local_client(cluster).status(0).unwrap();
    let (kills, lives) = (
        kills.load(Ordering::SeqCst),
        ids.load(Ordering::SeqCst) - 1 - REMOTE,
    );
    println!(
        "{kills} kills of dsmd, {lives} of local clients, {unknown} changes cut short: {:?}, {:?}",
        status.local, status.recovery
    );
    assert!(
        kills >= 3 && lives >= 10 && unknown >= 3 && status.local.writes > 100,
        "too few kills or writes for a check"
    );
    let since = Instant::now();
    let verdict = check(&[0; CELLS.len()], &history, STEPS);
    println!(
        "{} operations, {:?} to check",
        history.len(),
        since.elapsed()
    );
    assert_eq!(verdict, SearchVerdict::Linearizable);
}
