//! Reloads mcomp.cfg at SIGHUP and applies what can change while the server runs; and, for `dsmd
//! --reload`, asks another dsmd to do that.

use super::context::Context;
use super::failure::Failure;
use super::notify::notify;
use crate::logging::Event;
use dsm_config::{Config, OperationLogMode};
use dsm_core::segment::ServedSegment;
use log::LevelFilter;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sd_notify::NotifyState;
use std::time::{Duration, Instant};

/// How long another dsmd may take to reload. An operation log on a disk that hangs delays a reload
/// by a second.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the result of a reload is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Applies log level, operation log and limits. A file that is invalid, or has another layout,
/// changes nothing.
pub(super) fn reload(context: &Context, running: &Config, log_level: Option<LevelFilter>) {
    let reloading = NotifyState::monotonic_usec_now();
    notify(&match reloading {
        Ok(now) => vec![NotifyState::Reloading, now],
        Err(_) => vec![NotifyState::Reloading],
    });
    let is_applied = apply(context, running, log_level);
    // The counter changes only after the log is written: a process that waits for it may look for
    // the reason in the log.
    crate::logging::flush();
    context.segment.count_reload(is_applied);
    notify(&[NotifyState::Ready]);
}

/// Reads and applies the file. Whether that was done.
fn apply(context: &Context, running: &Config, log_level: Option<LevelFilter>) -> bool {
    match Config::load(&running.path) {
        Err(error) => {
            log::error!(
                MESSAGE_ID = Event::ReloadRefused.id(), DSM_SERVER = context.index;
                "reload refused, the old configuration stays: {error}"
            );
            false
        }
        Ok(config) => {
            let differences = context.layout.differences(&config.layout.canonical());
            if differences.is_empty() {
                crate::logging::set_level(log_level.unwrap_or(config.log.level));
                context.limits.set(&config.limits);
                if config.log.operations != OperationLogMode::Off {
                    // Before the log is switched on: it would miss operations of local clients.
                    context.segment.disable_local_access();
                }
                let log = &config.log;
                context
                    .operation_log
                    .reconfigure(log.operations, &log.directory, log.max_size);
                context.update_local_access();
                log::info!(
                    "reloaded {}: log level, operation log and limits",
                    config.path.display()
                );
                true
            } else {
                log::error!(
                    MESSAGE_ID = Event::ReloadRefused.id(), DSM_SERVER = context.index;
                    "reload refused, the old configuration stays: the layout in {} differs from the one that is served \
                     (ours): {}. Restart dsmd on every machine to change it",
                    config.path.display(),
                    differences.join("; ")
                );
                false
            }
        }
    }
}

/// Asks the dsmd with this process id to reload its configuration, and waits for the result.
pub(super) fn ask(pid: u32) -> Result<(), Failure> {
    let failed = |source| Failure::Reload { pid, source };
    let process = i32::try_from(pid)
        .ok()
        .filter(|pid| *pid > 0)
        .map(Pid::from_raw);
    let server = ServedSegment::find(pid).map_err(failed)?;
    let (Some(process), Some(server)) = (process, server) else {
        return Err(Failure::NoServer { pid });
    };
    let before = server.reloads().map_err(failed)?;
    kill(process, Signal::SIGHUP).map_err(|error| failed(error.into()))?;
    let deadline = Instant::now() + RELOAD_TIMEOUT;
    loop {
        let now = server.reloads().map_err(failed)?;
        if now.refused != before.refused {
            return Err(Failure::ReloadRefused { pid });
        }
        if now.done != before.done {
            return Ok(());
        }
        if Instant::now() >= deadline || !server.is_served() {
            return Err(Failure::NoAnswer { pid });
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}
