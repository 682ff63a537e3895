//! The life of a dsmd: start, signals, stop.

use super::arguments::Arguments;
use super::context::Context;
use super::detach::{Parent, detach};
use super::failure::Failure;
use super::listener::ACCEPT_THREAD;
use super::notify::{self, notify};
use super::operation_log::OperationLog;
use super::heartbeat::Heartbeat;
use super::threads::Threads;
use super::{listener, names, startup_retry, reload, start, watchdog};
use crate::command_line::answer_usage;
use crate::help;
use crate::logging::{Destination, Event};
use clap::Parser;
use dsm_config::{Config, check_capacity, own_index};
use dsm_core::segment::{Segment, overhead};
use dsm_core::sys::listening::{self, Bound};
use dsm_core::sys::{descriptors, file_size};
use log::LevelFilter;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::{Mode, umask};
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::process::ExitCode;
use std::sync::Arc;

/// Descriptors that a server needs beside its connections: segment, listener, epoll, logs, and some
/// for connections that are told that they are too many.
const OTHER_DESCRIPTORS: u64 = 48;

/// The whole of dsmd.
#[must_use]
pub fn main() -> ExitCode {
    file_size::ignore_signal();
    let arguments =
        match Arguments::try_parse_from(help::with_option::<Arguments>(std::env::args_os())) {
            Ok(arguments) => arguments,
            Err(error) => return ExitCode::from(answer_usage("dsmd", &error)),
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
    // Absolute: a detached dsmd has another working directory, and reads the file again at SIGHUP.
    let path = Config::find(arguments.config.as_deref());
    let destination = Destination::choose(arguments.daemonize);
    if destination == Destination::Journal {
        // A wrong mcomp.cfg is an error there, too. Elsewhere it goes to standard error.
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
    // Nobody has said stop.
    let Some(index) = index else { return Ok(()) };
    config.check_trusted(index)?;
    check_capacity(&config, overhead(config.layout.k()))?;
    // At most MAX_SERVERS.
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    // Before standard error is gone: it is where a missing syslog is reported.
    crate::logging::init(destination, arguments.log_level.unwrap_or(config.log.level));
    if let Some(pid_file) = &arguments.pid_file {
        *parent = Some(detach(pid_file)?);
    }
    // Shared memory and logs are for the group, and for nobody else.
    umask(Mode::from_bits_truncate(0o007));
    let max_connections = raise_descriptor_limit(config.limits.connections);

    // Before the port opens and before the long part of the start: a signal that comes now has its
    // meaning already.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(Failure::Threads)?;
    // Before memory is allocated for a server that cannot be reached; another dsmd of the same
    // segment is the better answer.
    let address = &config.layout.addresses()[index as usize];
    let bound = startup_retry::retry(
        || listening::bind(address).map_err(Failure::listen(address)),
        startup_retry::address_may_appear,
        || signals.pending().any(|signal| signal != SIGHUP),
    );
    if bound.is_err()
        && let Some(error) = Segment::in_use(&config.layout, index)
    {
        return Err(error.into());
    }
    let Some(bound) = bound? else { return Ok(()) };
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
        // A server that was killed may have let them in.
        segment.refuse_local();
    }
    names::keep(&segment, index);
    let context = Arc::new(Context::new(
        &config,
        index,
        segment,
        operation_log,
        max_connections,
    ));
    // Before: whoever finds a server that listens finds it decided.
    context.update_local_access();
    let listeners = listening::listen(bound).map_err(Failure::listen(address))?;
    let (listens, listening) = (listeners.shown(), listeners.addresses[0]);
    let threads = Threads::start(&context).map_err(Failure::Threads)?;
    let stop = Arc::new(
        EventFd::from_flags(EfdFlags::EFD_CLOEXEC)
            .map_err(|error| Failure::Threads(error.into()))?,
    );
    let heartbeat = Arc::new(Heartbeat::new(ACCEPT_THREAD.to_owned()).map_err(Failure::Threads)?);
    let heartbeats = threads.heartbeats().chain([Arc::clone(&heartbeat)]).collect();
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
        config.layout.k(),
        config.layout.n(),
        context.segment.incarnation()
    );

    if let Some(parent) = parent {
        parent.tell(0, "");
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
        NotifyState::Status("finishing requests under way"),
    ]);
    log::info!("stopping: no new connections, requests under way are finished");
    context.segment.refuse_local();
    // The counter cannot be full; and if the thread is gone already, all the better.
    let _ = stop.write(1);
    let _ = accepting.join();
    finish(&context);
    Ok(())
}

/// Says which of the addresses that other machines may know for the server's name lead nowhere.
fn warn_of_addresses(config: &Config, index: usize, bound: &Bound) {
    let address = &config.servers[index].address;
    if let Some(warning) = address.only_loopback(&bound.addresses) {
        log::warn!(DSM_SERVER = index as u64; "{warning}");
    }
    for missing in &bound.missing {
        log::warn!(
            DSM_SERVER = index as u64;
            "{address} stands for {missing} too, which this machine does not have: clients that come there find no server"
        );
    }
}

/// Lets requests under way end, and leaves the segment in good order for the next dsmd.
fn finish(context: &Context) {
    let left = context.stop();
    if left == 0 {
        context.segment.leave();
    } else {
        log::warn!(
            "{left} connections did not end within limits.shutdown_timeout; their clients will resend"
        );
    }
    context
        .operation_log
        .stop(context.limits.shutdown_timeout());
    names::finish(context);
}

/// Raises the limit of open files so that the connections have room, as far as the hard limit
/// allows. Returns how many connections have.
fn raise_descriptor_limit(connections: usize) -> usize {
    let needed = connections as u64 + OTHER_DESCRIPTORS;
    let Some(files) = descriptors::allow(needed + listener::MAX_REFUSED_OPEN as u64) else {
        return connections;
    };
    if files >= needed {
        return connections.max(usize::try_from(files - OTHER_DESCRIPTORS).unwrap_or(usize::MAX));
    }
    let possible = usize::try_from(files.saturating_sub(OTHER_DESCRIPTORS))
        .unwrap_or(connections)
        .max(1);
    log::warn!(
        "limits.connections is {connections}, but {files} open files leave room for {possible} connections, and so many \
         it will be: raise LimitNOFILE= of the unit, or ulimit -n"
    );
    possible
}
