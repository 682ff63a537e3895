//! Accepting masters, a thread for each, and the end: told to stop, or idle for long enough.

use super::super::connection::Connection;
use super::super::wire::MAX_ASK;
use super::Agent;
use super::session::Session;
use crate::sys::listening::Listeners;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most masters at a time: one has the claim, others are told so, or fetch a snapshot.
const MAX_SESSIONS: usize = 32;

/// How often an agent looks whether its sessions are gone, when it is to end.
const POLL: Duration = Duration::from_millis(20);

/// How long sessions may take to end when the agent is told to stop.
const STOP: Duration = Duration::from_secs(5);

/// How long to wait when the process has no descriptor left for a connection that waits.
const NO_DESCRIPTOR_PAUSE: Duration = Duration::from_millis(50);

/// How an agent listens.
pub(in crate::snapshot) struct Listening {
    pub(in crate::snapshot) listeners: Listeners,
    /// After so long without a session it ends; the service manager starts it again when it is needed.
    pub(in crate::snapshot) idle: Option<Duration>,
}

/// The sockets of the sessions, by number.
#[derive(Default)]
struct Sessions(Mutex<HashMap<u64, TcpStream>>);

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, TcpStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves masters until `stop` is written to, or nobody has come for a while.
pub(in crate::snapshot) fn serve(agent: &Arc<Agent>, listening: &Listening, stop: &EventFd) -> io::Result<()> {
    let sessions = Arc::new(Sessions::default());
    let mut number = 0;
    let mut idle_since = Instant::now();
    loop {
        if !sessions.lock().is_empty() {
            idle_since = Instant::now();
        }
        let left = listening.idle.map(|idle| idle.saturating_sub(idle_since.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            ::log::info!(DSM_SERVER = agent.index; "nobody has asked for anything for a while: the agent ends until it is needed");
            return Ok(());
        }
        // Looked at again within a second, for a session may have ended meanwhile.
        let timeout = left.map_or(Duration::from_secs(1), |left| left.min(Duration::from_secs(1)));
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
        let stopped = PollFd::new(stop.as_fd(), PollFlags::POLLIN);
        let mut waits: Vec<_> = [stopped].into_iter().chain(listening.listeners.awaited()).collect();
        match poll(&mut waits, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if waits[0].any().unwrap_or(true) {
            end(&sessions);
            return Ok(());
        }
        match listening.listeners.accept() {
            Ok((socket, peer)) => {
                number += 1;
                if let Err(error) = start(agent, &sessions, number, socket, peer)
                    && agent.refused.opens()
                {
                    ::log::warn!(DSM_SERVER = agent.index, DSM_CLIENT:% = peer; "no session for {peer}: {error}");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                if agent.refused.opens() {
                    ::log::warn!(DSM_SERVER = agent.index; "accept a connection: {error}");
                }
                std::thread::sleep(NO_DESCRIPTOR_PAUSE);
            }
        }
    }
}

fn start(
    agent: &Arc<Agent>,
    sessions: &Arc<Sessions>,
    number: u64,
    socket: TcpStream,
    peer: SocketAddr,
) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    if sessions.lock().len() >= MAX_SESSIONS {
        return Err(io::Error::other("there are as many as an agent has at a time"));
    }
    sessions.lock().insert(number, socket.try_clone()?);
    let connection = Connection::new(socket, agent.config.snapshot.timeout, MAX_ASK);
    let (agent, own) = (Arc::clone(agent), Arc::clone(sessions));
    let started = connection.and_then(|connection| {
        std::thread::Builder::new().name("dsm-agent".to_owned()).spawn(move || {
            Session::new(&agent, connection, peer).run();
            own.lock().remove(&number);
        })
    });
    started.map(drop).inspect_err(|_| drop(sessions.lock().remove(&number)))
}

/// Ends the sessions as if their masters had gone, and waits for them to give back what they hold.
fn end(sessions: &Sessions) {
    let deadline = Instant::now() + STOP;
    loop {
        let open = sessions.lock();
        if open.is_empty() || Instant::now() >= deadline {
            return;
        }
        for socket in open.values() {
            // Gone already: as well.
            let _ = socket.shutdown(Shutdown::Both);
        }
        drop(open);
        std::thread::sleep(POLL);
    }
}
