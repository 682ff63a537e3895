//! Accepts masters and starts a thread for each, until the agent is told to stop or has been idle
//! for long enough.

use super::Agent;
use super::admission::{ConnectionPermit, ConnectionTable};
use super::master_handler::MasterHandler;
use dsm_core::net::{Listeners, Stream};
use dsm_snapshot::agent_protocol::MessageStream;
use dsm_snapshot::agent_protocol::{MAX_REQUEST, RefusalReason};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a stopping agent checks whether its handlers have ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long handlers may take to end when the agent is told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait after accept(2) failed, as it does when the process has no descriptor left. The
/// connection stays in the queue, so accepting at once would loop.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// The sockets of an agent, and when it ends by itself.
pub(super) struct Listening {
    pub(super) listeners: Listeners,
    /// The agent ends after so long without a connection. The service manager starts it again when
    /// a master connects.
    pub(super) idle: Option<Duration>,
}

/// Serves masters until `stop` is written to, or no master has connected for the idle time.
pub(super) fn serve(agent: &Arc<Agent>, listening: &Listening, stop: &EventFd) -> io::Result<()> {
    let connections = Arc::new(ConnectionTable::default());
    let mut idle_since = Instant::now();
    loop {
        if !connections.is_empty() {
            idle_since = Instant::now();
        }
        let left = listening
            .idle
            .map(|idle| idle.saturating_sub(idle_since.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            log::info!(
                DSM_SERVER = agent.index;
                "no master is connected: the agent ends, and starts again when one connects"
            );
            return Ok(());
        }
        // At most a second, because a handler that ends does not wake this thread.
        let timeout = left.map_or(Duration::from_secs(1), |left| {
            left.min(Duration::from_secs(1))
        });
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
        let stopped = PollFd::new(stop.as_fd(), PollFlags::POLLIN);
        let mut waits: Vec<_> = [stopped]
            .into_iter()
            .chain(listening.listeners.awaited())
            .collect();
        match poll(&mut waits, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if waits[0].any().unwrap_or(true) {
            end(&connections);
            return Ok(());
        }
        match listening.listeners.accept() {
            Ok((socket, peer)) => {
                if let Err(error) = start(agent, &connections, socket, peer)
                    && agent.refused.allows()
                {
                    log::warn!(
                        DSM_SERVER = agent.index, DSM_CLIENT:% = peer;
                        "cannot serve {peer}: {error}"
                    );
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                if agent.refused.allows() {
                    log::warn!(DSM_SERVER = agent.index; "cannot accept a connection: {error}");
                }
                std::thread::sleep(ACCEPT_RETRY_DELAY);
            }
        }
    }
}

fn start(
    agent: &Arc<Agent>,
    connections: &Arc<ConnectionTable>,
    socket: Stream,
    peer: SocketAddr,
) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    let other = socket.try_clone()?;
    let stream = MessageStream::new(socket, agent.config.snapshot.timeout, MAX_REQUEST)?;
    let Some(permit) = ConnectionPermit::acquire(connections, other, peer.ip()) else {
        let message = format!(
            "the snapshot agent of server {} has the most connections that it may have: try again \
             later",
            agent.index
        );
        // It does not block: nothing else was written to the socket.
        let _ = stream.refuse(RefusalReason::UnderWay, &message);
        return Err(io::Error::other(message));
    };
    let agent = Arc::clone(agent);
    let handler = move || MasterHandler::new(&agent, stream, peer, &permit).run();
    std::thread::Builder::new()
        .name("dsm-agent".to_owned())
        .spawn(handler)
        .map(drop)
}

/// Closes the connections, and waits until the handlers have released what they hold.
fn end(connections: &ConnectionTable) {
    let deadline = Instant::now() + STOP_TIMEOUT;
    while !connections.is_empty() && Instant::now() < deadline {
        connections.close_all();
        std::thread::sleep(POLL_INTERVAL);
    }
}
