//! The long part of a start: the memory, allocated or restored. systemd is told of the progress,
//! and a signal ends it.

use super::failure::Failure;
use super::notify::notify;
use super::startup_retry;
use crate::logging::Event;
use dsm_config::{Config, OnMemoryLoss};
use dsm_core::segment::{AccessError, Found, Opened, Segment, SegmentError, Start};
use sd_notify::NotifyState;
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;
use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// How often systemd is told that a restore is still running.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// How much longer a start may take after each report of progress.
const START_EXTENSION: Duration = Duration::from_secs(30);

/// Opens the segment, and has it restored if it was lost and `recovery.on_memory_loss` says so.
/// `None` when a signal says to stop.
pub(super) fn segment(
    config: &Config,
    index: u32,
    reset: bool,
    signals: &mut Signals,
) -> Result<Option<Segment>, Failure> {
    let segment = match open(config, index, reset, signals) {
        Err(Failure::Segment(error @ SegmentError::Interrupted { .. })) => {
            log::info!(DSM_SERVER = index; "stopped: {error}");
            return Ok(None);
        }
        segment => segment?,
    };
    let Some(segment) = segment else {
        log::info!(DSM_SERVER = index; "stopped before the memory was opened");
        return Ok(None);
    };
    if config.recovery.on_memory_loss == OnMemoryLoss::Restore
        && segment.access_error() == Some(AccessError::Waiting)
        && restore(config, index, signals)?.is_break()
    {
        log::info!(DSM_SERVER = index; "stopped before the memory was restored; the memory still waits for a restore");
        return Ok(None);
    }
    Ok(Some(segment))
}

/// Opens the segment, and logs what was found. `None` when a signal says to stop.
fn open(
    config: &Config,
    index: u32,
    reset: bool,
    signals: &mut Signals,
) -> Result<Option<Segment>, Failure> {
    // The progress report and the retry both look for signals. SIGHUP has nothing to reload yet.
    let signals = RefCell::new(signals);
    let is_stopped = || {
        signals
            .borrow_mut()
            .pending()
            .any(|signal| signal != SIGHUP)
    };
    let mut progress = |done, total| {
        report_progress(&format!(
            "allocating shared memory: {} of {} MiB",
            done >> 20,
            total >> 20
        ));
        if is_stopped() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let start = match config.recovery.on_memory_loss {
        _ if reset => Start::Reset,
        OnMemoryLoss::Empty => Start::Serve,
        _ => Start::ServeOrWait,
    };
    let attempt = || Segment::serve(&config.layout, index, start, &mut progress);
    let Some(Opened { segment, found }) =
        startup_retry::retry(attempt, startup_retry::name_may_be_freed, is_stopped)?
    else {
        return Ok(None);
    };
    let name = segment.name();
    match found {
        Found::Segment {
            layout_changed: false,
        } => {
            log::info!(DSM_SERVER = index; "{name} was re-opened with its memory");
        }
        Found::Segment {
            layout_changed: true,
        } => log::warn!(
            DSM_SERVER = index;
            "{name} was re-opened with its memory, but the rest of the layout has changed since it was last served: make sure \
             that every machine has the same mcomp.cfg"
        ),
        Found::Nothing | Found::Unfinished if segment.access_error().is_some() => log::warn!(
            MESSAGE_ID = Event::MemoryWaits.id(), DSM_SERVER = index;
            "{name} was not there: if it held data before, that was lost with a reboot. It waits for a restore, as \
             recovery.on_memory_loss in mcomp.cfg says: restore a snapshot, or run dsmctl memory accept-empty"
        ),
        Found::Nothing | Found::Unfinished => log::warn!(
            MESSAGE_ID = Event::MemoryLost.id(), DSM_SERVER = index;
            "{name} was not there: its memory begins as zeros. If it held data before, that was lost with a reboot"
        ),
        Found::Reset => {
            log::warn!(DSM_SERVER = index; "{name} was deleted because of --reset: its memory begins as zeros");
        }
    }
    Ok(Some(segment))
}

/// Asks the agent of this machine to restore the newest snapshot. `Break` when a signal says to
/// stop.
fn restore(config: &Config, index: u32, signals: &mut Signals) -> Result<ControlFlow<()>, Failure> {
    let (done, wait) = std::sync::mpsc::channel();
    let own = config.clone();
    std::thread::Builder::new()
        .name("dsm-recovery".to_owned())
        .spawn(move || done.send(dsm_snapshot::recover(&own, index as usize)))
        .map_err(Failure::Threads)?;
    loop {
        report_progress("restoring the newest snapshot into a memory that was lost");
        match wait.recv_timeout(PROGRESS_INTERVAL) {
            Ok(Ok((name, _))) => {
                log::warn!(
                    MESSAGE_ID = Event::Recovery.id(), DSM_SERVER = index, DSM_FILE = name.as_str();
                    "the memory is again as it was in {name}"
                );
                return Ok(ControlFlow::Continue(()));
            }
            Ok(Err(error)) => {
                log::error!(
                    MESSAGE_ID = Event::Recovery.id(), DSM_SERVER = index;
                    "the memory was not restored, and waits: {error}"
                );
                return Ok(ControlFlow::Continue(()));
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(ControlFlow::Continue(())),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if signals.pending().any(|signal| signal != SIGHUP) {
            return Ok(ControlFlow::Break(()));
        }
    }
}

/// Tells systemd how far a long start is, and extends its timeout.
fn report_progress(text: &str) {
    let extension = u32::try_from(START_EXTENSION.as_micros()).unwrap_or(u32::MAX);
    notify(&[
        NotifyState::ExtendTimeoutUsec(extension),
        NotifyState::Status(text),
    ]);
}
