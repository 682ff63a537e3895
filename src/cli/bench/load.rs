//! Runs all connections of a load, each in its own thread, and shows their progress.

use super::connection::{Counter, Limit, LoadConnection, Stop};
use super::plan::{LoadEnd, LoadPlan, RequestPath};
use super::tally::Tally;
use crate::cli::context::CommandContext;
use crate::cli::failure::CliFailure;
use crate::cli::human;
use crate::cli::progress::StatusLine;
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

/// The time between two updates of the progress, each of which shows the rate since the last one.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Bytes of the stack of a thread. This is enough, as all buffers are on the heap.
const STACK: usize = 512 << 10;

/// Open files that are not connections: the standard streams, the terminal, and the files that the
/// system opens to resolve names.
const OTHER_DESCRIPTORS: u64 = 16;

/// The results of a load.
pub(super) struct LoadResult {
    pub(super) tally: Tally,
    /// The paths that requests took, without duplicates.
    pub(super) paths: Vec<DataPath>,
    /// Whether a signal ended the load.
    pub(super) interrupted: bool,
}

/// The events that a thread reports, in this order.
enum ThreadEvent {
    Connected(Result<(), Error>),
    Ended(Box<Tally>),
}

/// The state that all threads share.
struct LoadState<'p> {
    plan: &'p LoadPlan,
    servers: Vec<usize>,
    counters: Vec<Counter>,
    stop: Stop,
    /// The time at which all threads start, set when all are connected; `None` if they must not
    /// start, because a connection failed.
    start: OnceLock<Option<Instant>>,
}

/// Connects, warms up and measures. Fails if a server cannot be reached at the start; later
/// failures are counted in the tally.
pub(super) fn run(plan: &LoadPlan, context: &CommandContext) -> Result<LoadResult, CliFailure> {
    let mut servers: Vec<usize> = context
        .layout()
        .pieces(plan.address, plan.length)?
        .map(|piece| piece.server)
        .collect();
    servers.dedup();
    check_descriptors(plan.connections, servers.len() as u64)?;
    let mut paths = paths(plan, context, &servers)?;
    let load = LoadState {
        plan,
        servers,
        counters: (0..plan.connections).map(|_| Counter::default()).collect(),
        stop: Stop::default(),
        start: OnceLock::new(),
    };
    for signal in [SIGINT, SIGTERM] {
        let interrupted = &load.stop.interrupted;
        // The order matters: the first signal ends the load, the second one the process.
        flag::register_conditional_default(signal, Arc::clone(interrupted))
            .and_then(|_| flag::register(signal, Arc::clone(interrupted)))
            .map_err(|error| CliFailure::input_output("signal handlers", error))?;
    }
    let tally = std::thread::scope(|scope| {
        let started = start(&load, context, scope);
        // Also on failure: otherwise the threads would wait for their start forever.
        load.start
            .get_or_init(|| started.is_ok().then(Instant::now));
        Ok::<_, CliFailure>(watch(&load, &started?))
    })?;
    // The paths may have changed during the load, for example because an operation log was switched
    // on. Connections beyond CLIENT_WORKERS always use TCP.
    let at_end = self::paths(plan, context, &load.servers).unwrap_or_else(|_| vec![DataPath::Tcp]);
    paths.extend(at_end);
    if plan.connections > CLIENT_WORKERS as u64 {
        paths.push(DataPath::Tcp);
    }
    paths.sort_unstable();
    paths.dedup();
    Ok(LoadResult {
        tally,
        paths,
        interrupted: load.stop.interrupted.load(Ordering::Relaxed),
    })
}

/// A new client for one connection.
fn client(plan: &LoadPlan, context: &CommandContext) -> Client {
    let client = context.client.clone().with_own_connections();
    match plan.path {
        RequestPath::Auto => client,
        RequestPath::Tcp => client.with_local(LocalAccess::Never),
        RequestPath::Local => client.with_local(LocalAccess::Auto),
    }
}

/// The paths that requests to these servers take now. Fails if `--path local` is given and a server
/// is not reachable through shared memory.
fn paths(
    plan: &LoadPlan,
    context: &CommandContext,
    servers: &[usize],
) -> Result<Vec<DataPath>, CliFailure> {
    let client = client(plan, context);
    let mut paths = Vec::new();
    for server in servers {
        let path = client.data_path(*server)?;
        if path == DataPath::Tcp && plan.path == RequestPath::Local {
            let address = &context.layout().addresses()[*server];
            return Err(CliFailure::NotLocal {
                server: *server,
                address: address.clone(),
            });
        }
        paths.push(path);
    }
    Ok(paths)
}

/// Raises the limit of open files to a socket for each connection to each server, or fails.
fn check_descriptors(connections: u64, servers: u64) -> Result<(), CliFailure> {
    let needed = connections * servers + OTHER_DESCRIPTORS;
    match descriptors::raise_limit(needed) {
        Some(files) if files < needed => Err(CliFailure::Usage(format!(
            "{connections} connections to {} need {needed} open files, but this process may open \
             only {files}: make --connections smaller, or raise the limit with ulimit -n",
            human::count(servers, "server")
        ))),
        _ => Ok(()),
    }
}

/// Starts a thread for each connection, and waits until all have connected.
fn start<'s>(
    load: &'s LoadState<'_>,
    context: &CommandContext,
    scope: &'s Scope<'s, '_>,
) -> Result<Receiver<ThreadEvent>, CliFailure> {
    let (sender, events) = channel();
    for (number, counter) in (0..).zip(&load.counters) {
        let client = client(load.plan, context);
        let sender = sender.clone();
        Builder::new()
            .stack_size(STACK)
            .spawn_scoped(scope, move || work(load, number, counter, client, &sender))
            .map_err(|error| {
                CliFailure::input_output(format!("the thread of connection {number}"), error)
            })?;
    }
    for _ in &load.counters {
        if let Ok(ThreadEvent::Connected(connected)) = events.recv() {
            connected?;
        }
    }
    Ok(events)
}

/// The main function of a thread.
fn work(
    load: &LoadState<'_>,
    number: u64,
    counter: &Counter,
    client: Client,
    sender: &Sender<ThreadEvent>,
) {
    let plan = load.plan;
    let mut connection = LoadConnection::new(client, plan, number, counter, &load.stop);
    // Sending fails only if the receiver has stopped after another error, and needs no more events.
    let _ = sender.send(ThreadEvent::Connected(connection.connect(&load.servers)));
    let Some(begin) = load.start.wait() else {
        return;
    };
    let mut tally = Tally::new();
    if !plan.warm_up.is_zero() {
        let warm_up = connection.run(Limit {
            until: Some(*begin + plan.warm_up),
            left: u64::MAX,
        });
        // Failures of the warm-up end the load, so the report must contain them.
        warm_up
            .failed
            .into_iter()
            .for_each(|failed| tally.failed(failed.count, failed.error));
    }
    let limit = match plan.end {
        LoadEnd::After(time) => Limit {
            until: Some(Instant::now() + time),
            left: u64::MAX,
        },
        LoadEnd::Count(count) => Limit {
            until: None,
            left: plan.share(number, count),
        },
    };
    tally.merge(connection.run(limit));
    let _ = sender.send(ThreadEvent::Ended(Box::new(tally)));
}

/// Merges the tallies of the threads as they end, and shows the progress until then.
fn watch(load: &LoadState<'_>, events: &Receiver<ThreadEvent>) -> Tally {
    let mut tally = Tally::new();
    let mut line = StatusLine::new();
    let begin = load
        .start
        .get()
        .copied()
        .flatten()
        .unwrap_or_else(Instant::now);
    let (mut last_count, mut last_update) = (0, begin);
    let mut left = load.counters.len();
    while left > 0 {
        match events.recv_timeout(PROGRESS_INTERVAL.saturating_sub(last_update.elapsed())) {
            Ok(ThreadEvent::Ended(ended)) => {
                tally.merge(*ended);
                left -= 1;
            }
            Ok(ThreadEvent::Connected(_)) => {}
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let (now, count) = (
                    Instant::now(),
                    load.counters.iter().map(Counter::count).sum(),
                );
                let rate = per_second(count - last_count, now - last_update);
                line.show(&progress(load, count, rate, now - begin));
                (last_count, last_update) = (count, now);
            }
        }
    }
    tally
}

fn progress(load: &LoadState<'_>, count: u64, rate: u64, elapsed: Duration) -> String {
    let plan = load.plan;
    let stage = match plan.end {
        _ if load.stop.is_set() => "waiting for the last replies".to_owned(),
        _ if elapsed < plan.warm_up => format!("warming up for {}s", plan.warm_up.as_secs_f32()),
        LoadEnd::After(time) => {
            format!(
                "{:.1} of {} s",
                elapsed.saturating_sub(plan.warm_up).as_secs_f32(),
                time.as_secs_f32()
            )
        }
        LoadEnd::Count(total) => format!("{count} of {total} requests"),
    };
    format!(
        "{stage}: {rate} ops/s, {}/s",
        human::bytes(rate * plan.size)
    )
}

/// The rate per second of `count` events in `time`.
#[allow(clippy::cast_possible_truncation)] // fewer than 2^64 / 10^9 per nanosecond
pub(super) fn per_second(count: u64, time: Duration) -> u64 {
    (u128::from(count) * 1_000_000_000)
        .checked_div(time.as_nanos())
        .unwrap_or(0) as u64
}
