//! The watchdog thread. It probes the server, checks the heartbeats of the threads that many peers
//! depend on, and tells systemd that the server works. Between the probes it cleans up after dead
//! snapshot agents and watches the names of the memory.

use super::context::Context;
use super::heartbeat::Heartbeat;
use super::names;
use super::notify::notify;
use super::self_probe::{ProbeError, SelfProbe};
use crate::logging::Event;
use dsm_core::segment::{Leftover, NameCheck};
use sd_notify::NotifyState;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often STATUS is updated when systemd has no watchdog for the unit.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// The shortest interval between probes, whatever `WatchdogSec`= says.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// How often the thread cleans up after dead snapshot agents: how long writers copy pages for a
/// snapshot that no agent reads.
const CLEAN_UP_INTERVAL: Duration = Duration::from_secs(1);

/// How often the thread checks for a heartbeat: most threads beat before the first check.
const HEARTBEAT_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// What failed its check.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    /// Executing a request.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// A thread that many peers depend on.
    #[error("thread {name} has made no progress within {timeout:?}")]
    Thread {
        /// Its name.
        name: String,
        /// The timeout.
        timeout: Duration,
    },
}

/// Tells systemd that the server is ready, and starts the thread that tells it that the server
/// works: that it executes requests, and that the threads with these heartbeats run.
///
/// # Errors
///
/// When a thread cannot be started.
pub(super) fn start(
    context: Arc<Context>,
    address: SocketAddr,
    heartbeats: Vec<Arc<Heartbeat>>,
) -> io::Result<()> {
    let mut probe = SelfProbe::start(&context, address)?;
    notify(&[
        NotifyState::Ready,
        NotifyState::Status(&status_text(&context)),
    ]);
    let watchdog = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
    let interval = watchdog.map_or(STATUS_INTERVAL, |limit| {
        (limit / 3).clamp(SHORTEST_INTERVAL, STATUS_INTERVAL)
    });
    std::thread::Builder::new().name("dsm-watchdog".to_owned()).spawn(move || {
        let mut checked = Instant::now();
        let mut known = KnownMemory { reported: context.incarnation(), in_use: context.segment.incarnation() };
        while !context.is_stopping() {
            std::thread::sleep(interval.min(CLEAN_UP_INTERVAL));
            clean_up(&context);
            report_replaced_memory(&context, &mut known);
            names::restore_removed(&context);
            if checked.elapsed() < interval {
                continue;
            }
            checked = Instant::now();
            context.sessions.touch_attached();
            match (watchdog, check(&mut probe, &heartbeats, interval)) {
                (Some(_), Ok(())) => notify(&[NotifyState::Watchdog, NotifyState::Status(&status_text(&context))]),
                (None, _) => notify(&[NotifyState::Status(&status_text(&context))]),
                (Some(_), Err(_)) if context.is_stopping() => {}
                // systemd restarts the service when no WATCHDOG=1 arrives within WatchdogSec=.
                (Some(_), Err(error)) => {
                    log::warn!(DSM_SERVER = context.index; "the server does not answer itself: {error}");
                }
            }
        }
    })?;
    Ok(())
}

/// Ends the snapshot or restore of an agent that died, so that writers no longer copy pages for it.
fn clean_up(context: &Context) {
    match context.segment.clean_up() {
        Ok(Some(Leftover::Cut)) => log::warn!(
            DSM_SERVER = context.index;
            "a snapshot of {} was abandoned because its agent died; its part of the copy area is free again",
            context.segment.name()
        ),
        Ok(Some(Leftover::ClosedMemory)) => log::warn!(
            DSM_SERVER = context.index;
            "a restore of {} ended before it changed anything because its agent died: the memory is in use, unchanged",
            context.segment.name()
        ),
        Err(error) if context.log_limit.allows() => {
            log::warn!(DSM_SERVER = context.index; "{error}");
        }
        Ok(None) | Err(_) => {}
    }
}

/// What the log of the server has reported about its memory.
struct KnownMemory {
    /// The incarnation that was reported last; zero for a memory that waits for a restore.
    reported: u64,
    /// The last incarnation that was in use.
    in_use: u64,
}

/// Logs that a snapshot agent has closed, reopened or replaced the memory.
fn report_replaced_memory(context: &Context, known: &mut KnownMemory) {
    let found = context.incarnation();
    if found != known.reported {
        let name = context.segment.name();
        if found == 0 {
            log::warn!(DSM_SERVER = context.index; "{name} is being restored: dsmd refuses reads and writes until the restore ends");
        } else if found == known.in_use {
            log::info!(DSM_SERVER = context.index; "{name} is in use again, unchanged: its restore ended before it changed anything");
        } else {
            log::info!(
                MESSAGE_ID = Event::MemoryReplaced.id(), DSM_SERVER = context.index, DSM_INCARNATION = format!("{found:016x}");
                "{name} is in use with new contents, from a snapshot or zeros: its incarnation is {found:016x}"
            );
        }
        known.reported = found;
        if found != 0 {
            known.in_use = found;
        }
    }
}

/// The STATUS text that `systemctl status` shows.
fn status_text(context: &Context) -> String {
    let connections = context.connections();
    let requests: u64 = context.statistics.operations().values().sum();
    let serving = match context.names() {
        NameCheck::Removed => "REMOVED FROM /dev/shm, see the journal: serving",
        _ if context.incarnation() == 0 => "waiting for restore:",
        _ => "serving",
    };
    format!(
        "{serving} {} MiB as server {} of {} on {}: {} of {} connections, {requests} requests",
        context.layout.share_size() >> 20,
        context.index,
        context.layout.server_count(),
        context.address(),
        connections.open,
        connections.limit
    )
}

/// Checks what every peer depends on: the thread that accepts connections, the shared threads, and
/// the execution of a request. It does not check how long clients wait while hostile peers keep the
/// server busy: a thread that makes progress does not need a restart.
fn check(
    probe: &mut SelfProbe,
    heartbeats: &[Arc<Heartbeat>],
    timeout: Duration,
) -> Result<(), CheckError> {
    let deadline = Instant::now() + timeout;
    heartbeats.iter().for_each(|heartbeat| heartbeat.request());
    probe.probe(timeout)?;
    for heartbeat in heartbeats {
        while !heartbeat.is_answered() {
            if Instant::now() >= deadline {
                return Err(CheckError::Thread {
                    name: heartbeat.name().to_owned(),
                    timeout,
                });
            }
            std::thread::sleep(HEARTBEAT_POLL_INTERVAL);
        }
    }
    Ok(())
}
