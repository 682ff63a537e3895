//! Accepts connections, up to limits.connections.

use super::connection::Connection;
use super::context::Context;
use super::heartbeat::Heartbeat;
use super::threads::Threads;
use crate::logging::Event;
use dsm_core::net::{KeepAliveTimes, Listeners, Stream};
use dsm_core::protocol::{Code, Refusal};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait after accept(2) failed, for example because no descriptor was left.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// TCP keep-alive: a connection idle for 60 s is probed 6 times at intervals of 10 s, so a dead
/// peer is detected after two minutes.
const KEEP_ALIVE: KeepAliveTimes = KeepAliveTimes {
    idle: 60,
    interval: 10,
    probes: 6,
};

/// Refused connections that are open at the same time to send the refusal; more are closed without
/// one.
pub(super) const MAX_REFUSED_OPEN: usize = 1024;

/// The name of the thread that accepts connections.
pub(super) const ACCEPT_THREAD: &str = "dsm-accept";

/// Accepts connections until `stop` is written to; `heartbeat` is that of this thread.
pub(super) fn accept(
    context: &Arc<Context>,
    listeners: &Listeners,
    threads: &Threads,
    stop: &EventFd,
    heartbeat: &Heartbeat,
) {
    loop {
        heartbeat.beat();
        let wait = |descriptor| PollFd::new(descriptor, PollFlags::POLLIN);
        let own = [wait(stop.as_fd()), wait(heartbeat.wake().as_fd())];
        let mut waits: Vec<_> = own.into_iter().chain(listeners.awaited()).collect();
        match poll(&mut waits, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => {
                log::error!("waiting for connections fails: {error}; dsmd aborts");
                std::process::abort();
            }
        }
        if waits[0].any().unwrap_or(true) {
            return;
        }
        if waits[1].any().unwrap_or(true) {
            heartbeat.woken();
        }
        match listeners.accept() {
            Ok((socket, peer)) => {
                if let Err(error) = prepare(&socket) {
                    if context.log_limit.allows() {
                        log::info!("{peer} disconnected before it was served: {error}");
                    }
                    continue;
                }
                admit(context, threads, socket, peer);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                if context.log_limit.allows() {
                    log::warn!(DSM_SERVER = context.index; "cannot accept a connection: {error}");
                }
                std::thread::sleep(ACCEPT_RETRY_INTERVAL);
            }
        }
    }
}

/// Sets the options of every connection: blocking calls, no delay for small replies, and
/// keep-alive, without which a client whose machine loses power would occupy its connection
/// forever.
fn prepare(socket: &Stream) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_no_delay()?;
    socket.set_keep_alive(KEEP_ALIVE)
}

fn admit(context: &Arc<Context>, threads: &Threads, socket: Stream, peer: SocketAddr) {
    let socket = Arc::new(socket);
    if let Some(registered) = context.admit(&socket) {
        threads.serve(Connection::new(context, socket, peer, registered));
        return;
    }
    let refusal = Refusal::new(
        Code::TooManyConnections,
        format!(
            "server {} has {} connections, as many as limits.connections in mcomp.cfg allows: close some, or raise limits.connections",
            context.index,
            context.limits.connections()
        ),
    );
    if context.log_limit.allows() {
        log::warn!(
            MESSAGE_ID = Event::LimitReached.id(), DSM_SERVER = context.index, DSM_CLIENT:% = peer;
            "refused {peer}: {refusal}"
        );
    }
    if threads.shared_load() < context.limits.connections() + MAX_REFUSED_OPEN {
        threads.share(Connection::refused(context, socket, peer, &refusal));
    }
}
