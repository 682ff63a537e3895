//! The main function of dsm-snapshot, which runs as an agent or as a master.

use super::Agent;
use super::arguments::{SnapshotArguments, SnapshotCommand};
use super::failure::SnapshotFailure;
use super::listen::{Listening, serve};
use crate::command_line::report_parse_error;
use crate::help;
use crate::logging::{Event, LogDestination};
use clap::Parser;
use dsm_config::{Config, own_index};
use dsm_core::net;
use dsm_core::sys::file_size;
use dsm_snapshot::{AgentError, CreateOptions, Created, create};
use log::LevelFilter;
use nix::sys::eventfd::{EfdFlags, EventFd};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// How long an agent that systemd started through its socket waits without a master before it ends.
/// systemd starts it again when a master connects.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs dsm-snapshot.
#[must_use]
pub fn main() -> ExitCode {
    file_size::ignore_signal();
    let arguments = match SnapshotArguments::try_parse_from(help::replace_help_command::<
        SnapshotArguments,
    >(std::env::args_os()))
    {
        Ok(arguments) => arguments,
        Err(error) => return ExitCode::from(report_parse_error("dsm-snapshot", &error)),
    };
    let code = match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if log::max_level() == log::LevelFilter::Off {
                eprintln!("dsm-snapshot: {failure}");
            } else if let SnapshotCommand::Create { .. } = arguments.command {
                log::error!(MESSAGE_ID = Event::SnapshotFailed.id(); "{failure}");
            } else {
                log::error!("{failure}");
            }
            // It fails when there is no service manager, which is no error.
            let _ = sd_notify::notify(&[NotifyState::Status(&failure.to_string())]);
            ExitCode::from(failure.exit_code())
        }
    };
    crate::logging::flush();
    code
}

fn run(arguments: &SnapshotArguments) -> Result<(), SnapshotFailure> {
    let destination = LogDestination::choose(false);
    if destination == LogDestination::Journal {
        // Before mcomp.cfg is read, so that an error in it is logged to the journal, too.
        crate::logging::init(
            destination,
            arguments.log_level.unwrap_or(LevelFilter::Info),
        );
    }
    let config = Config::load(&Config::find(arguments.config.as_deref()))?;
    let index = own_index(&config, arguments.index)?;
    crate::logging::init(destination, arguments.log_level.unwrap_or(config.log.level));
    match &arguments.command {
        SnapshotCommand::Agent { idle_timeout } => agent(config, index, *idle_timeout),
        SnapshotCommand::Create {
            allow_partial,
            output,
        } => master(&config, index, *allow_partial, output.clone()),
    }
}

fn agent(
    config: Config,
    index: usize,
    idle_timeout: Option<Duration>,
) -> Result<(), SnapshotFailure> {
    config.check_trusted_agent(index)?;
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(SnapshotFailure::System)?;
    let Some(address) = config.servers[index]
        .snapshot
        .as_ref()
        .map(ToString::to_string)
    else {
        return Err(AgentError::NoAddress { server: index }.into());
    };
    let failed = |source| SnapshotFailure::Listen {
        address: address.clone(),
        source,
    };
    let (listeners, idle) = match net::inherited().map_err(failed)? {
        Some(listeners) => {
            // The socket unit, not mcomp.cfg, chose the address, so check_trusted_agent() did not
            // see it.
            let outside = |listens: &&SocketAddr| !listens.ip().to_canonical().is_loopback();
            if let Some(listens) = listeners.addresses.iter().find(outside)
                && !config.security.trusted_network
            {
                return Err(SnapshotFailure::UntrustedSocket(*listens));
            }
            (listeners, Some(idle_timeout.unwrap_or(IDLE_TIMEOUT)))
        }
        None => (
            net::bind(&address).and_then(net::listen).map_err(failed)?,
            idle_timeout,
        ),
    };
    let stop = Arc::new(
        EventFd::from_flags(EfdFlags::EFD_CLOEXEC)
            .map_err(|error| SnapshotFailure::System(error.into()))?,
    );
    let stopping = Arc::clone(&stop);
    let watcher = std::thread::Builder::new()
        .name("dsm-signals".to_owned())
        .spawn(move || {
            if signals.forever().next().is_some() {
                // It fails only when the counter is full, which it cannot be.
                let _ = stopping.write(1);
            }
        });
    watcher.map_err(SnapshotFailure::System)?;
    // At most MAX_SERVERS.
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let listens = listeners.shown();
    let is_among = |all: Vec<SocketAddr>| {
        listeners
            .addresses
            .iter()
            .any(|listens| all.contains(listens))
    };
    if !config.servers[index as usize]
        .snapshot
        .as_ref()
        .is_some_and(|own| own.resolve().is_ok_and(is_among))
    {
        log::warn!(
            DSM_SERVER = index;
            "the service manager listens on {listens}, but masters connect to {address}, as \
             mcomp.cfg says: correct ListenStream= of the socket unit"
        );
    }
    log::info!(DSM_SERVER = index; "ready: the snapshot agent of server {index} on {listens}");
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let outcome = serve(
        &Arc::new(Agent::new(config, index)),
        &Listening { listeners, idle },
        &stop,
    );
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    outcome.map_err(SnapshotFailure::System)
}

fn master(
    config: &Config,
    index: usize,
    allow_partial: bool,
    output: Option<PathBuf>,
) -> Result<(), SnapshotFailure> {
    let options = CreateOptions {
        own: Some(index),
        allow_partial,
        output,
    };
    let created = create(config, &options, &mut |_, _| {})?;
    report(&created);
    Ok(())
}

/// Logs the outcome, with a field for each number.
fn report(created: &Created) {
    match created {
        Created::NotMaster { master, address } => {
            log::info!(
                DSM_SERVER = *master as u64;
                "server {master} is the master, since its agent ({address}) answers: it takes the \
                 snapshots, not this machine"
            );
        }
        Created::Written {
            id,
            cut_time,
            file,
            servers,
            duration,
            deleted,
        } => {
            let id = id.as_str();
            for part in servers {
                log::info!(
                    DSM_SNAPSHOT = id, DSM_SERVER = part.server as u64, DSM_PAUSE_US = part.pause_us,
                    DSM_PAGES_COPIED = part.pages_copied;
                    "server {}: writers were kept out for {} µs and overwrote {} pages before they \
                     were sent",
                    part.server, part.pause_us, part.pages_copied
                );
            }
            let cut =
                humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_nanos(*cut_time));
            let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            log::info!(
                MESSAGE_ID = Event::SnapshotWritten.id(), DSM_SNAPSHOT = id, DSM_CUT_TIME:% = cut, DSM_RAW_BYTES = file.raw_bytes,
                DSM_STORED_BYTES = file.file_bytes, DSM_DURATION_MS = milliseconds, DSM_FILE:% = file.path.display();
                "snapshot of {cut} written to {}: {} bytes of memory that are not zeros in {} \
                 bytes, in {milliseconds} ms",
                file.path.display(), file.raw_bytes, file.file_bytes
            );
            for name in deleted {
                log::info!(DSM_FILE = name.as_str(); "deleted the old snapshot {name}");
            }
        }
    }
}
