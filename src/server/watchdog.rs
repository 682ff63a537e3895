//! The thread that asks the server itself now and then, as a client would, and tells systemd that
//! it answers.

use super::context::Context;
use super::names;
use super::notify::notify;
use super::self_probe::{SelfProbe, ProbeError};
use super::heartbeat::Heartbeat;
use crate::logging::Event;
use dsm_core::segment::{Left, Names};
use sd_notify::NotifyState;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often STATUS is refreshed when there is no watchdog.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// The shortest time between two questions, whatever watchdog time systemd asks for.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// How often it is looked whether a dead snapshot agent has left something: how long writers save
/// pages in vain.
const TIDY_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is looked whether a thread has come round: most have before they are looked at.
const HEARTBEAT_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// How often a long start is looked after.
pub(super) const START_STEP: Duration = Duration::from_secs(1);

/// How much longer a start may take after each step that succeeds.
const START_EXTENSION: Duration = Duration::from_secs(30);

/// What does not answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    /// The way of a request.
    #[error(transparent)]
    SelfProbe(#[from] ProbeError),
    /// A thread that serves many peers.
    #[error("thread {name} has not come round within {timeout:?}")]
    Thread {
        /// Its name.
        name: String,
        /// How long it was waited for.
        timeout: Duration,
    },
}

/// Tells systemd that a long start goes on.
pub(super) fn allocating(done: u64, total: u64) {
    starting(&format!(
        "allocating shared memory: {} of {} MiB",
        done >> 20,
        total >> 20
    ));
}

/// Tells systemd that the memory is being restored; to be called every [`START_STEP`].
pub(super) fn restoring() {
    starting("restoring the newest snapshot into a memory that was lost");
}

fn starting(text: &str) {
    let extension = u32::try_from(START_EXTENSION.as_micros()).unwrap_or(u32::MAX);
    notify(&[
        NotifyState::ExtendTimeoutUsec(extension),
        NotifyState::Status(text),
    ]);
}

/// Tells systemd that the server is ready, and starts the thread that keeps telling it that the
/// server answers: its requests, and the threads with these heartbeats.
///
/// # Errors
/// When no thread can be started.
pub(super) fn start(
    context: Arc<Context>,
    address: SocketAddr,
    heartbeats: Vec<Arc<Heartbeat>>,
) -> io::Result<()> {
    let mut probe = SelfProbe::start(&context, address)?;
    notify(&[NotifyState::Ready, NotifyState::Status(&sentence(&context))]);
    let watchdog = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
    let interval = watchdog.map_or(STATUS_INTERVAL, |limit| {
        (limit / 3).clamp(SHORTEST_INTERVAL, STATUS_INTERVAL)
    });
    std::thread::Builder::new().name("dsm-watchdog".to_owned()).spawn(move || {
        let mut asked = Instant::now();
        let mut known = Known { shown: context.incarnation(), in_use: context.segment.incarnation() };
        while !context.is_stopping() {
            std::thread::sleep(interval.min(TIDY_INTERVAL));
            tidy(&context);
            tell_if_replaced(&context, &mut known);
            names::restore_removed(&context);
            if asked.elapsed() < interval {
                continue;
            }
            asked = Instant::now();
            context.sessions.touch_attached();
            match (watchdog, ask(&mut probe, &heartbeats, interval)) {
                (Some(_), Ok(())) => notify(&[NotifyState::Watchdog, NotifyState::Status(&sentence(&context))]),
                (None, _) => notify(&[NotifyState::Status(&sentence(&context))]),
                (Some(_), Err(_)) if context.is_stopping() => {}
                // systemd restarts the service if this goes on.
                (Some(_), Err(error)) => {
                    log::warn!(DSM_SERVER = context.index; "the server does not answer itself: {error}");
                }
            }
        }
    })?;
    Ok(())
}

/// Ends what a snapshot agent that died has left, so that writers need not save pages for nobody.
fn tidy(context: &Context) {
    match context.segment.tidy() {
        Ok(Some(Left::Cut)) => log::warn!(
            DSM_SERVER = context.index;
            "a snapshot of {} was abandoned, for its agent has died; the pages saved for it are given back",
            context.segment.name()
        ),
        Ok(Some(Left::Shut)) => log::warn!(
            DSM_SERVER = context.index;
            "a restore of {} has ended before it changed anything, for its agent has died: the memory is in use as it was",
            context.segment.name()
        ),
        Err(error) if context.log_gate.opens() => log::warn!(DSM_SERVER = context.index; "{error}"),
        Ok(None) | Err(_) => {}
    }
}

/// What the server's own log knows of its memory.
struct Known {
    /// As [`Context::incarnation`] was found the last time.
    shown: u64,
    /// The last one that was in use.
    in_use: u64,
}

/// Says in the server's own log what an agent has done to its memory.
fn tell_if_replaced(context: &Context, known: &mut Known) {
    let found = context.incarnation();
    if found != known.shown {
        let name = context.segment.name();
        if found == 0 {
            log::warn!(DSM_SERVER = context.index; "{name} is being restored: nobody reads or changes it meanwhile");
        } else if found == known.in_use {
            log::info!(DSM_SERVER = context.index; "{name} is in use again, as it was: its restore has changed nothing");
        } else {
            log::info!(
                MESSAGE_ID = Event::MemoryReplaced.id(), DSM_SERVER = context.index, DSM_INCARNATION = format!("{found:016x}");
                "{name} is in use, with a memory that was put there: its incarnation is {found:016x}"
            );
        }
        known.shown = found;
        if found != 0 {
            known.in_use = found;
        }
    }
}

/// What `systemctl status` shows.
fn sentence(context: &Context) -> String {
    let connections = context.connections();
    let requests: u64 = context.statistics.operations().values().sum();
    let serving = match context.names() {
        Names::Removed => "REMOVED FROM /dev/shm, see the journal: serving",
        _ if context.incarnation() == 0 => "waiting for restore:",
        _ => "serving",
    };
    format!(
        "{serving} {} MiB as server {} of {} on {}: {} of {} connections, {requests} requests",
        context.layout.k() >> 20,
        context.index,
        context.layout.n(),
        context.address(),
        connections.open,
        connections.limit
    )
}

/// Asks all that every peer depends on whether it works: the thread that accepts connections, those
/// that share them, and the way of a request. How long clients of hostile peers wait is not asked:
/// a thread that comes round is no dead one.
fn ask(probe: &mut SelfProbe, heartbeats: &[Arc<Heartbeat>], timeout: Duration) -> Result<(), Unanswered> {
    let deadline = Instant::now() + timeout;
    heartbeats.iter().for_each(|heartbeat| heartbeat.ask());
    probe.ask(timeout)?;
    for heartbeat in heartbeats {
        while !heartbeat.is_answered() {
            if Instant::now() >= deadline {
                return Err(Unanswered::Thread {
                    name: heartbeat.name().to_owned(),
                    timeout,
                });
            }
            std::thread::sleep(HEARTBEAT_POLL_INTERVAL);
        }
    }
    Ok(())
}
