//! SIGHUP: reading mcomp.cfg again, and taking over what can change under a running server.

use super::context::Context;
use super::notify::notify;
use crate::config::{Config, OperationLogMode};
use crate::log::Event;
use ::log::LevelFilter;
use sd_notify::NotifyState;

/// Takes over log level, operation log and limits. A file with a mistake, or with another layout, changes nothing.
pub(super) fn reload(context: &Context, running: &Config, log_level: Option<LevelFilter>) {
    let reloading = NotifyState::monotonic_usec_now();
    notify(&match reloading {
        Ok(now) => vec![NotifyState::Reloading, now],
        Err(_) => vec![NotifyState::Reloading],
    });
    match Config::load(&running.path) {
        Err(error) => ::log::error!(
            MESSAGE_ID = Event::ReloadRefused.id(), DSM_SERVER = context.index;
            "reload refused, the old configuration stays: {error}"
        ),
        Ok(config) => {
            let differences = context.layout.differences(&config.layout.canonical());
            if differences.is_empty() {
                crate::log::set_level(log_level.unwrap_or(config.log.level));
                context.limits.set(&config.limits);
                if config.log.operations != OperationLogMode::Off {
                    // Not after the log is on: it would miss something.
                    context.segment.refuse_local();
                }
                let log = &config.log;
                context.operation_log.reconfigure(log.operations, &log.directory, log.max_size);
                context.decide_local_access();
                ::log::info!("reloaded {}: log level, operation log and limits", config.path.display());
            } else {
                ::log::error!(
                    MESSAGE_ID = Event::ReloadRefused.id(), DSM_SERVER = context.index;
                    "reload refused, the old configuration stays: the layout in {} differs from the one that is served \
                     (ours): {}. Restart dsmd on every machine to change it",
                    config.path.display(),
                    differences.join("; ")
                );
            }
        }
    }
    notify(&[NotifyState::Ready]);
}
