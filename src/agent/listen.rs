//! Accepting masters, a thread for each, and the end: told to stop, or idle for long enough.

use super::Agent;
use super::seats::{Seat, Seats};
use super::session::Session;
use dsm_core::sys::listening::Listeners;
use dsm_snapshot::agent_protocol::Connection;
use dsm_snapshot::agent_protocol::{MAX_ASK, Reason};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often an agent looks whether its sessions are gone, when it is to end.
const POLL: Duration = Duration::from_millis(20);

/// How long sessions may take to end when the agent is told to stop.
const STOP: Duration = Duration::from_secs(5);

/// How long to wait when the process has no descriptor left for a connection that waits.
const NO_DESCRIPTOR_PAUSE: Duration = Duration::from_millis(50);

/// How an agent listens.
pub(super) struct Listening {
    pub(super) listeners: Listeners,
    /// After so long without a session it ends; the service manager starts it again when it is
    /// needed.
    pub(super) idle: Option<Duration>,
}

/// Serves masters until `stop` is written to, or nobody has come for a while.
pub(super) fn serve(agent: &Arc<Agent>, listening: &Listening, stop: &EventFd) -> io::Result<()> {
    let seats = Arc::new(Seats::default());
    let mut idle_since = Instant::now();
    loop {
        if !seats.is_empty() {
            idle_since = Instant::now();
        }
        let left = listening
            .idle
            .map(|idle| idle.saturating_sub(idle_since.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            log::info!(DSM_SERVER = agent.index; "nobody has asked for anything for a while: the agent ends until it is needed");
            return Ok(());
        }
        // Looked at again within a second, for a session may have ended meanwhile.
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
            end(&seats);
            return Ok(());
        }
        match listening.listeners.accept() {
            Ok((socket, peer)) => {
                if let Err(error) = start(agent, &seats, socket, peer)
                    && agent.refused.opens()
                {
                    log::warn!(DSM_SERVER = agent.index, DSM_CLIENT:% = peer; "no session for {peer}: {error}");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                if agent.refused.opens() {
                    log::warn!(DSM_SERVER = agent.index; "accept a connection: {error}");
                }
                std::thread::sleep(NO_DESCRIPTOR_PAUSE);
            }
        }
    }
}

fn start(
    agent: &Arc<Agent>,
    seats: &Arc<Seats>,
    socket: TcpStream,
    peer: SocketAddr,
) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    let other = socket.try_clone()?;
    let connection = Connection::new(socket, agent.config.snapshot.timeout, MAX_ASK)?;
    let Some(seat) = Seat::take(seats, other, peer.ip()) else {
        let message = format!(
            "the snapshot agent of server {} has as many masters as it takes: try again",
            agent.index
        );
        // Nothing else was written to it: it does not block.
        let _ = connection.refuse(Reason::UnderWay, &message);
        return Err(io::Error::other(message));
    };
    let agent = Arc::clone(agent);
    let session = move || Session::new(&agent, connection, peer, &seat).run();
    std::thread::Builder::new()
        .name("dsm-agent".to_owned())
        .spawn(session)
        .map(drop)
}

/// Ends the sessions as if their masters had gone, and waits for them to give back what they hold.
fn end(seats: &Seats) {
    let deadline = Instant::now() + STOP;
    while !seats.is_empty() && Instant::now() < deadline {
        seats.end_all();
        std::thread::sleep(POLL);
    }
}
