//! The life of a dsmd process: start, signals, stop.

use super::arguments::Arguments;
use super::context::Context;
use super::detach::{Parent, detach};
use super::failure::Failure;
use super::heartbeat::Heartbeat;
use super::listener::ACCEPT_THREAD;
use super::notify::{self, notify};
use super::operation_log::OperationLog;
use super::threads::Threads;
use super::{listener, names, reload, start, startup_retry, watchdog};
use crate::command_line::report_parse_error;
use crate::help;
use crate::logging::{Event, LogDestination};
use clap::Parser;
use dsm_config::{Config, check_capacity, own_index};
use dsm_core::net::{self, Bound};
use dsm_core::segment::{Segment, overhead};
use dsm_core::sys::{descriptors, file_size};
use log::LevelFilter;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::{Mode, umask};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::process::ExitCode;
use std::sync::Arc;

/// File descriptors that a server needs besides its connections: for the segment, the listeners,
/// epoll and the logs.
const OTHER_DESCRIPTORS: u64 = 48;

/// Runs dsmd with the arguments of the process, and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    file_size::ignore_signal();
    let arguments = match Arguments::try_parse_from(help::replace_help_command::<Arguments>(
        std::env::args_os(),
    )) {
        Ok(arguments) => arguments,
        Err(error) => return ExitCode::from(report_parse_error("dsmd", &error)),
    };
    if let Some(pid) = arguments.reload {
        return match reload::ask(pid) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                eprintln!("dsmd: {failure}");
                ExitCode::from(failure.exit_code())
            }
        };
    }
    let mut parent = None;
    let code = match run(&arguments, &mut parent) {
        Ok(()) => 0,
        Err(failure) => {
            if log::max_level() == log::LevelFilter::Off {
                eprintln!("dsmd: {failure}");
            } else {
                match failure.event() {
                    Some(event) => log::error!(MESSAGE_ID = event.id(); "{failure}"),
                    None => log::error!("{failure}"),
                }
            }
            notify(&[NotifyState::Status(&failure.to_string())]);
            if let Some(parent) = &mut parent {
                parent.fail(failure.exit_code(), &failure.to_string());
            }
            failure.exit_code()
        }
    };
    notify::flush();
    crate::logging::flush();
    drop(parent);
    ExitCode::from(code)
}

fn run(arguments: &Arguments, parent: &mut Option<Parent>) -> Result<(), Failure> {
    // The path becomes absolute: a detached dsmd changes its working directory, and reads the file
    // again at SIGHUP.
    let path = Config::find(arguments.config.as_deref());
    let destination = LogDestination::choose(arguments.daemonize);
    if destination == LogDestination::Journal {
        // In the journal, an invalid mcomp.cfg is an error entry. Other destinations are opened
        // later, so that the error goes to standard error.
        crate::logging::init(
            destination,
            arguments.log_level.unwrap_or(LevelFilter::Info),
        );
    }
    let config = Config::load(&std::path::absolute(&path).unwrap_or(path))?;
    let index = startup_retry::retry(
        || own_index(&config, arguments.index),
        startup_retry::identity_may_appear,
        || false,
    )?;
    // `None` cannot happen: there is no stop condition.
    let Some(index) = index else { return Ok(()) };
    config.check_trusted(index)?;
    check_capacity(&config, overhead(config.layout.share_size()))?;
    // At most MAX_SERVERS.
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    // Before detaching closes standard error, where an unreachable syslog is reported.
    crate::logging::init(destination, arguments.log_level.unwrap_or(config.log.level));
    if let Some(pid_file) = &arguments.pid_file {
        *parent = Some(detach(pid_file)?);
    }
    // Shared memory and logs are accessible to the group and to no other user.
    umask(Mode::from_bits_truncate(0o007));
    let max_connections = raise_descriptor_limit(config.limits.connections);

    // Before the port opens and before the long part of the start, so that signals are handled from
    // now on.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(Failure::Threads)?;
    // Bind before allocating memory, which would be in vain for a server that cannot be reached.
    let Some(bound) = bind(&config, index, &mut signals)? else {
        return Ok(());
    };
    warn_of_addresses(&config, index as usize, &bound);
    let Some(segment) = start::segment(&config, index, arguments.reset, &mut signals)? else {
        return Ok(());
    };
    let operation_log = OperationLog::start(
        config.log.operations,
        &config.log.directory,
        config.log.max_size,
        index,
    );
    if !operation_log.is_off() {
        // A dsmd that was killed may have left local access enabled.
        segment.disable_local_access();
    }
    names::keep(&segment, index);
    let context = Arc::new(Context::new(
        &config,
        index,
        segment,
        operation_log,
        max_connections,
    ));
    // Before listening: a client that reaches the server must find local access decided.
    context.update_local_access();
    let address = &config.layout.addresses()[index as usize];
    let listeners = net::listen(bound).map_err(Failure::listen(address))?;
    let (listens, listening) = (listeners.shown(), listeners.addresses[0]);
    let threads = Threads::start(&context).map_err(Failure::Threads)?;
    let stop = Arc::new(
        EventFd::from_flags(EfdFlags::EFD_CLOEXEC)
            .map_err(|error| Failure::Threads(error.into()))?,
    );
    let heartbeat = Arc::new(Heartbeat::new(ACCEPT_THREAD.to_owned()).map_err(Failure::Threads)?);
    let heartbeats = threads
        .heartbeats()
        .chain([Arc::clone(&heartbeat)])
        .collect();
    let accepting = {
        let (context, stop) = (Arc::clone(&context), Arc::clone(&stop));
        std::thread::Builder::new()
            .name(ACCEPT_THREAD.to_owned())
            .spawn(move || listener::accept(&context, &listeners, &threads, &stop, &heartbeat))
            .map_err(Failure::Threads)?
    };
    watchdog::start(Arc::clone(&context), listening, heartbeats).map_err(Failure::Threads)?;
    log::info!(
        MESSAGE_ID = Event::Ready.id(), DSM_SERVER = index, DSM_INCARNATION = format!("{:016x}", context.segment.incarnation());
        "ready: {} bytes as server {index} of {} on {listens}, incarnation {:016x}",
        config.layout.share_size(),
        config.layout.server_count(),
        context.segment.incarnation()
    );

    if let Some(parent) = parent {
        parent.report(0, "");
    }
    for signal in signals.forever() {
        if signal == SIGHUP {
            reload::reload(&context, &config, arguments.log_level);
        } else {
            break;
        }
    }
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("finishing requests in flight"),
    ]);
    log::info!("stopping: dsmd accepts no new connections and finishes requests in flight");
    context.segment.disable_local_access();
    // The write cannot fail: the counter is not full. If the thread has ended already, that is what
    // is wanted.
    let _ = stop.write(1);
    let _ = accepting.join();
    finish(&context);
    Ok(())
}

/// Binds the server's addresses; `None` when a signal ends the program before they appear.
fn bind(config: &Config, index: u32, signals: &mut Signals) -> Result<Option<Bound>, Failure> {
    let address = &config.layout.addresses()[index as usize];
    let bound = startup_retry::retry(
        || net::bind(address).map_err(Failure::listen(address)),
        startup_retry::address_may_appear,
        || signals.pending().any(|signal| signal != SIGHUP),
    );
    // If another dsmd serves the segment, that is the better error.
    if bound.is_err()
        && let Some(error) = Segment::in_use(&config.layout, index)
    {
        return Err(error.into());
    }
    bound
}

/// Warns about addresses that other machines may resolve the server's name to, but where this
/// server does not listen.
fn warn_of_addresses(config: &Config, index: usize, bound: &Bound) {
    let address = &config.servers[index].address;
    if let Some(warning) = address.loopback_warning(&bound.addresses) {
        log::warn!(DSM_SERVER = index as u64; "{warning}");
    }
    for missing in &bound.missing {
        log::warn!(
            DSM_SERVER = index as u64;
            "{address} resolves to {missing} too, which this machine does not have: clients that connect to it find no server. \
             Correct the name's addresses"
        );
    }
}

/// Lets requests in flight finish, and leaves the segment in good order for the next dsmd.
fn finish(context: &Context) {
    let left = context.stop();
    if left == 0 {
        context.segment.leave();
    } else {
        log::warn!(
            "{left} connections did not end within limits.shutdown_timeout; their clients resend what was not answered"
        );
    }
    context
        .operation_log
        .stop(context.limits.shutdown_timeout());
    names::finish(context);
}

/// Raises the limit of open files for the connections, as far as the hard limit allows. Returns the
/// number of connections that it has room for.
fn raise_descriptor_limit(connections: usize) -> usize {
    let needed = connections as u64 + OTHER_DESCRIPTORS;
    let Some(files) = descriptors::raise_limit(needed + listener::MAX_REFUSED_OPEN as u64) else {
        return connections;
    };
    if files >= needed {
        return connections.max(usize::try_from(files - OTHER_DESCRIPTORS).unwrap_or(usize::MAX));
    }
    let possible = usize::try_from(files.saturating_sub(OTHER_DESCRIPTORS))
        .unwrap_or(connections)
        .max(1);
    log::warn!(
        "limits.connections is {connections}, but the limit of {files} open files has room for {possible}, which is the \
         limit now: raise LimitNOFILE= of the unit, or ulimit -n"
    );
    possible
}
