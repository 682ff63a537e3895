//! A thread that many connections share.

use super::connection::{Connection, Mode, Next, TICK};
use super::conversation::Executor;
use super::threads::{Inbox, Threads};
use dsm_core::sys::incoming;
use nix::errno::Errno;
use nix::sched::sched_getcpu;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Events taken from epoll at once.
const EVENTS: usize = 64;

/// The token of the wake-up.
const WAKE: u64 = u64::MAX;

/// How long the thread sleeps, when the memory stands still for a snapshot, before it serves those
/// again who wait for that.
const NAP: Duration = Duration::from_micros(50);

/// How long those are served that have had a turn and are not finished, before it is looked who
/// else has something to do: a peer that asks for little waits so long, and one turn more, and not
/// for the turns of all that ask for much.
const SLICE: Duration = Duration::from_millis(1);

/// Turns of a connection between two looks where it comes in.
const TURNS_IN_PLACE: u32 = 64;

/// A connection that this thread serves.
struct Guest {
    connection: Connection,
    /// What epoll looks for.
    waits_for: Next,
    /// Turns before the next look where it comes in.
    turns: u32,
    /// It is among those that have had a turn and are not finished.
    is_unfinished: bool,
}

/// See the module.
pub(super) struct SharedThread {
    threads: Threads,
    inbox: Arc<Inbox>,
    epoll: Epoll,
    executor: Executor,
    connections: HashMap<u64, Guest>,
    next: u64,
    /// Those that have had a turn and are not finished, in the order of their turns.
    unfinished: VecDeque<u64>,
    /// A connection waits for the end of a freeze.
    awaits_thaw: bool,
}

impl SharedThread {
    pub(super) fn new(threads: Threads, inbox: Arc<Inbox>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(
            inbox.pulse.wake(),
            EpollEvent::new(EpollFlags::EPOLLIN, WAKE),
        )?;
        let worker = threads.context.segment.worker().map_err(io::Error::other)?;
        let executor = Executor::new(&threads.context, worker);
        Ok(Self {
            threads,
            inbox,
            epoll,
            executor,
            connections: HashMap::new(),
            next: 0,
            unfinished: VecDeque::new(),
            awaits_thaw: false,
        })
    }

    /// Runs until the process ends.
    pub(super) fn run(mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut last_tick = Instant::now();
        loop {
            let timeout = if self.unfinished.is_empty() {
                TICK
            } else {
                Duration::ZERO
            };
            let timeout = EpollTimeout::try_from(timeout).unwrap_or(EpollTimeout::ZERO);
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => {
                    log::error!("epoll: {error}; the process ends");
                    std::process::abort();
                }
            };
            self.inbox.pulse.beat();
            for event in &events[..count] {
                match event.data() {
                    WAKE => self.arrive(),
                    token => self.drive(token, false),
                }
            }
            if !self.unfinished.is_empty() {
                self.drive_unfinished();
            }
            if std::mem::take(&mut self.awaits_thaw) {
                std::thread::sleep(NAP);
            } else if count == EVENTS {
                std::thread::yield_now();
            }
            if last_tick.elapsed() >= TICK {
                last_tick = Instant::now();
                self.expire(last_tick);
                self.spread();
            }
        }
    }

    /// Gives those that are not finished another turn, each one at most, until it is time to look
    /// for others.
    fn drive_unfinished(&mut self) {
        let began = Instant::now();
        for _ in 0..self.unfinished.len() {
            let Some(token) = self.unfinished.pop_front() else {
                return;
            };
            self.drive(token, true);
            if began.elapsed() >= SLICE {
                return;
            }
        }
    }

    /// Takes the new connections in; they may have sent something already.
    fn arrive(&mut self) {
        for connection in self.inbox.take() {
            let token = self.next;
            self.next += 1;
            match self.epoll.add(
                connection.socket(),
                EpollEvent::new(EpollFlags::EPOLLIN, token),
            ) {
                Ok(()) => {
                    let guest = Guest {
                        connection,
                        waits_for: Next::Read,
                        turns: TURNS_IN_PLACE,
                        is_unfinished: false,
                    };
                    self.connections.insert(token, guest);
                    self.drive(token, false);
                }
                Err(error) => {
                    log::error!("watch a connection: {error}; it was closed");
                    self.inbox.gone();
                }
            }
        }
    }

    /// Gives the connection a turn: the one that is due to an unfinished one, or one because
    /// something has come.
    fn drive(&mut self, token: u64, is_due: bool) {
        let Some(guest) = self.connections.get_mut(&token) else {
            return;
        };
        // Its turn comes, though something may have come from it too.
        if guest.is_unfinished && !is_due {
            return;
        }
        let next = guest.connection.drive(&mut self.executor, Mode::Shared);
        // A long round is none that hangs.
        self.inbox.pulse.beat();
        guest.is_unfinished = matches!(next, Next::Again | Next::Thaw);
        match next {
            Next::Again => self.unfinished.push_back(token),
            Next::Thaw => {
                self.awaits_thaw = true;
                self.unfinished.push_back(token);
            }
            Next::Close => self.close(token),
            Next::Read if guest.waits_for == Next::Read => {
                guest.turns -= 1;
                if guest.turns == 0 {
                    guest.turns = TURNS_IN_PLACE;
                    self.send_home(token);
                }
            }
            Next::Write if guest.waits_for == Next::Write => {}
            Next::Read | Next::Write => {
                let flags = if next == Next::Read {
                    EpollFlags::EPOLLIN
                } else {
                    EpollFlags::EPOLLOUT
                };
                guest.waits_for = next;
                if let Err(error) = self.epoll.modify(
                    guest.connection.socket(),
                    &mut EpollEvent::new(flags, token),
                ) {
                    log::error!("watch a connection: {error}; it was closed");
                    self.close(token);
                }
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        self.executor.spare_input.shrink_if_idle();
        self.executor.spare_output.shrink_if_idle();
        let executor = &self.executor;
        let expired: Vec<(u64, Next)> = self
            .connections
            .iter_mut()
            .filter_map(|(token, guest)| Some((*token, guest.connection.expire(executor, now)?)))
            .collect();
        for (token, next) in expired {
            match next {
                Next::Close => self.close(token),
                _ => self.drive(token, false),
            }
        }
    }

    /// Gives connections threads of their own, if there are few enough now.
    fn spread(&mut self) {
        if self.threads.is_crowded() {
            return;
        }
        let idle = |guest: &mut Guest| {
            guest.waits_for == Next::Read && !guest.is_unfinished && guest.connection.is_served()
        };
        for (_, guest) in self.connections.extract_if(|_, guest| idle(guest)) {
            self.threads.serve(release(guest, &self.epoll, &self.inbox));
        }
    }

    /// Gives the connection to the thread that runs on the processor where it comes in, if that has
    /// no more of them. What the client sends and takes then stays in that processor's cache, and
    /// no thread gets many more than another.
    fn send_home(&mut self, token: u64) {
        let Some(guest) = self.connections.get(&token) else {
            return;
        };
        let (Ok(here), Some(there)) = (
            sched_getcpu(),
            incoming::processor(guest.connection.socket()),
        ) else {
            return;
        };
        self.inbox.runs_on(here);
        if here != there
            && let Some(home) = self.threads.on(there)
            && home.load() <= self.inbox.load()
            && let Some(guest) = self.connections.remove(&token)
        {
            home.put(release(guest, &self.epoll, &self.inbox));
        }
    }

    fn close(&mut self, token: u64) {
        // Dropping the connection closes its socket, and that ends the watch.
        self.connections.remove(&token);
        self.inbox.gone();
    }
}

/// The connection, which its thread no longer watches.
fn release(guest: Guest, epoll: &Epoll, inbox: &Inbox) -> Connection {
    // It was added, and a failure would only wake this thread for nothing.
    let _ = epoll.delete(guest.connection.socket());
    inbox.gone();
    guest.connection
}
