//! All connections at the same time, and a look at them while they work.

use super::connection::{Connection, Counter, Limit, Stop};
use super::plan::{End, Path, Plan};
use super::tally::Tally;
use crate::cli::failure::Failure;
use crate::cli::human;
use crate::cli::progress::Line;
use crate::cli::session::Session;
use dsm_client::{Client, DataPath, Error};
use dsm_config::LocalAccess;
use dsm_core::segment::CLIENT_WORKERS;
use dsm_core::sys::descriptors;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, Scope};
use std::time::{Duration, Instant};

/// Time between two looks: each shows the rate since the one before.
const LOOK: Duration = Duration::from_millis(500);

/// Bytes of a thread's stack: what is large is not on it.
const STACK: usize = 512 << 10;

/// Open files that are no connections: standard streams, the terminal, what the system's name
/// look-up opens.
const OTHER_DESCRIPTORS: u64 = 16;

/// What came of a load.
pub(super) struct Measured {
    pub(super) tally: Tally,
    /// The ways that requests took, each once.
    pub(super) paths: Vec<DataPath>,
    /// A signal ended it.
    pub(super) interrupted: bool,
}

/// What a thread says, in this order.
enum News {
    Connected(Result<(), Error>),
    Ended(Box<Tally>),
}

/// What all threads share.
struct Load<'p> {
    plan: &'p Plan,
    servers: Vec<usize>,
    counters: Vec<Counter>,
    stop: Stop,
    /// Set when all are connected: to when they begin, or to nothing when they are not to.
    gate: OnceLock<Option<Instant>>,
}

/// Connects, warms up and measures. Fails when a server cannot be reached at the beginning; what
/// fails later is counted.
pub(super) fn run(plan: &Plan, session: &Session) -> Result<Measured, Failure> {
    let mut servers: Vec<usize> = session
        .layout()
        .pieces(plan.address, plan.length)?
        .map(|piece| piece.server)
        .collect();
    servers.dedup();
    check_descriptors(plan.connections, servers.len() as u64)?;
    let mut paths = paths(plan, session, &servers)?;
    let load = Load {
        plan,
        servers,
        counters: (0..plan.connections).map(|_| Counter::default()).collect(),
        stop: Stop::default(),
        gate: OnceLock::new(),
    };
    for signal in [SIGINT, SIGTERM] {
        let interrupted = &load.stop.interrupted;
        // In this order: the first one ends the load, the second one the process.
        flag::register_conditional_default(signal, Arc::clone(interrupted))
            .and_then(|_| flag::register(signal, Arc::clone(interrupted)))
            .map_err(|error| Failure::input_output("signals", error))?;
    }
    let tally = std::thread::scope(|scope| {
        let started = start(&load, session, scope);
        // Whatever failed, those that wait go on or home.
        load.gate.get_or_init(|| started.is_ok().then(Instant::now));
        Ok::<_, Failure>(watch(&load, &started?))
    })?;
    // They may have changed meanwhile, as with an operation log that was switched on; and there are
    // no more local threads.
    let at_end = self::paths(plan, session, &load.servers).unwrap_or_else(|_| vec![DataPath::Tcp]);
    paths.extend(at_end);
    if plan.connections > CLIENT_WORKERS as u64 {
        paths.push(DataPath::Tcp);
    }
    paths.sort_unstable();
    paths.dedup();
    Ok(Measured {
        tally,
        paths,
        interrupted: load.stop.interrupted.load(Ordering::Relaxed),
    })
}

/// A client for one connection.
fn client(plan: &Plan, session: &Session) -> Client {
    let client = session.another_client();
    match plan.path {
        Path::Auto => client,
        Path::Tcp => client.with_local(LocalAccess::Never),
        Path::Local => client.with_local(LocalAccess::Auto),
    }
}

/// The ways that requests to these servers take now. Fails when one of them cannot be reached as it
/// was asked for.
fn paths(plan: &Plan, session: &Session, servers: &[usize]) -> Result<Vec<DataPath>, Failure> {
    let client = client(plan, session);
    let mut paths = Vec::new();
    for server in servers {
        let path = client.data_path(*server)?;
        if path == DataPath::Tcp && plan.path == Path::Local {
            let address = &session.layout().addresses()[*server];
            return Err(Failure::NotLocal {
                server: *server,
                address: address.clone(),
            });
        }
        paths.push(path);
    }
    Ok(paths)
}

/// Makes sure that this process may have a socket for each connection to each server.
fn check_descriptors(connections: u64, servers: u64) -> Result<(), Failure> {
    let needed = connections * servers + OTHER_DESCRIPTORS;
    match descriptors::allow(needed) {
        Some(files) if files < needed => Err(Failure::Usage(format!(
            "{connections} connections to {} need {needed} open files, and this process may have {files}: \
             make --connections smaller, or raise the limit with ulimit -n",
            human::count(servers, "server")
        ))),
        _ => Ok(()),
    }
}

/// Starts a thread for each connection, and waits until all are connected.
fn start<'s>(
    load: &'s Load<'_>,
    session: &Session,
    scope: &'s Scope<'s, '_>,
) -> Result<Receiver<News>, Failure> {
    let (sender, news) = channel();
    for (number, counter) in (0..).zip(&load.counters) {
        let client = client(load.plan, session);
        let sender = sender.clone();
        Builder::new()
            .stack_size(STACK)
            .spawn_scoped(scope, move || work(load, number, counter, client, &sender))
            .map_err(|error| {
                Failure::input_output(format!("the thread of connection {number}"), error)
            })?;
    }
    for _ in &load.counters {
        if let Ok(News::Connected(connected)) = news.recv() {
            connected?;
        }
    }
    Ok(news)
}

/// What a thread does.
fn work(load: &Load<'_>, number: u64, counter: &Counter, client: Client, sender: &Sender<News>) {
    let plan = load.plan;
    let mut connection = Connection::new(client, plan, number, counter, &load.stop);
    // Who receives is there until all threads have ended, or wants nothing more to be said.
    let _ = sender.send(News::Connected(connection.connect(&load.servers)));
    let Some(begin) = load.gate.wait() else {
        return;
    };
    let mut tally = Tally::new();
    if !plan.warm_up.is_zero() {
        let warm_up = connection.run(Limit {
            until: Some(*begin + plan.warm_up),
            left: u64::MAX,
        });
        // Its failures end the load, and must not be left unsaid.
        warm_up
            .failed
            .into_iter()
            .for_each(|failed| tally.failed(failed.count, failed.error));
    }
    let limit = match plan.end {
        End::After(time) => Limit {
            until: Some(Instant::now() + time),
            left: u64::MAX,
        },
        End::Count(count) => Limit {
            until: None,
            left: plan.share(number, count),
        },
    };
    tally.merge(connection.run(limit));
    let _ = sender.send(News::Ended(Box::new(tally)));
}

/// Gathers what the threads have counted, and shows meanwhile how they come on.
fn watch(load: &Load<'_>, news: &Receiver<News>) -> Tally {
    let mut tally = Tally::new();
    let mut line = Line::new();
    let begin = load
        .gate
        .get()
        .copied()
        .flatten()
        .unwrap_or_else(Instant::now);
    let (mut last_count, mut last_look) = (0, begin);
    let mut left = load.counters.len();
    while left > 0 {
        match news.recv_timeout(LOOK.saturating_sub(last_look.elapsed())) {
            Ok(News::Ended(ended)) => {
                tally.merge(*ended);
                left -= 1;
            }
            Ok(News::Connected(_)) => {}
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let (now, count) = (
                    Instant::now(),
                    load.counters.iter().map(Counter::count).sum(),
                );
                let rate = per_second(count - last_count, now - last_look);
                line.show(&progress(load, count, rate, now - begin));
                (last_count, last_look) = (count, now);
            }
        }
    }
    tally
}

fn progress(load: &Load<'_>, count: u64, rate: u64, elapsed: Duration) -> String {
    let plan = load.plan;
    let stage = match plan.end {
        _ if load.stop.is_set() => "waiting for the last replies".to_owned(),
        _ if elapsed < plan.warm_up => format!("warming up for {}s", plan.warm_up.as_secs_f32()),
        End::After(time) => {
            format!(
                "{:.1} of {} s",
                elapsed.saturating_sub(plan.warm_up).as_secs_f32(),
                time.as_secs_f32()
            )
        }
        End::Count(total) => format!("{count} of {total} requests"),
    };
    format!(
        "{stage}: {rate} ops/s, {}/s",
        human::bytes(rate * plan.size)
    )
}

/// How many there are in a second, when so many were in that time.
#[allow(clippy::cast_possible_truncation)] // Nobody counts 2^64 in a nanosecond.
pub(super) fn per_second(count: u64, time: Duration) -> u64 {
    (u128::from(count) * 1_000_000_000)
        .checked_div(time.as_nanos())
        .unwrap_or(0) as u64
}
