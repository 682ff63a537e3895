//! SIGHUP: reading mcomp.cfg again, and taking over what can change under a running server; and
//! asking for that.

use super::context::Context;
use super::failure::Failure;
use super::notify::notify;
use crate::logging::Event;
use dsm_config::{Config, OperationLogMode};
use dsm_core::segment::OfServer;
use log::LevelFilter;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sd_notify::NotifyState;
use std::time::{Duration, Instant};

/// How long a reload may take until it counts as not done: an operation log whose disk hangs holds
/// it up for a second.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is looked whether it was done.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Takes over log level, operation log and limits. A file with a mistake, or with another layout,
/// changes nothing.
pub(super) fn reload(context: &Context, running: &Config, log_level: Option<LevelFilter>) {
    let reloading = NotifyState::monotonic_usec_now();
    notify(&match reloading {
        Ok(now) => vec![NotifyState::Reloading, now],
        Err(_) => vec![NotifyState::Reloading],
    });
    let is_done = take_over(context, running, log_level);
    // After what is logged: who waits for this number may look for the reason.
    crate::logging::flush();
    context.segment.count_reload(is_done);
    notify(&[NotifyState::Ready]);
}

/// Whether the file was taken over.
fn take_over(context: &Context, running: &Config, log_level: Option<LevelFilter>) -> bool {
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
                    // Not after the log is on: it would miss something.
                    context.segment.refuse_local();
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

/// Has the dsmd with this process id read its configuration again, and waits for what comes of it.
pub(super) fn ask(pid: u32) -> Result<(), Failure> {
    let failed = |source| Failure::Reload { pid, source };
    let process = i32::try_from(pid)
        .ok()
        .filter(|pid| *pid > 0)
        .map(Pid::from_raw);
    let server = OfServer::find(pid).map_err(failed)?;
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
