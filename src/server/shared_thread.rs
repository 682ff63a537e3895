//! A thread that many connections share.

use super::connection::{Connection, Mode, NextStep, TICK};
use super::request_handler::Executor;
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
const MAX_EVENTS: usize = 64;

/// The token of the wake-up.
const WAKE: u64 = u64::MAX;

/// How long the thread sleeps, when the memory stands still for a snapshot, before it serves those
/// again who wait for that.
const FROZEN_RETRY_INTERVAL: Duration = Duration::from_micros(50);

/// How long those are served that have had a turn and are not finished, before it is looked who
/// else has something to do: a peer that asks for little waits so long, and one turn more, and not
/// for the turns of all that ask for much.
const UNFINISHED_SLICE: Duration = Duration::from_millis(1);

/// Turns of a connection between two looks where it comes in.
const TURNS_BETWEEN_MIGRATIONS: u32 = 64;

/// A connection that this thread serves.
struct SharedConnection {
    connection: Connection,
    /// What epoll looks for.
    waits_for: NextStep,
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
    connections: HashMap<u64, SharedConnection>,
    next: u64,
    /// Those that have had a turn and are not finished, in the order of their turns.
    unfinished: VecDeque<u64>,
    /// A connection waits for the end of a freeze.
    awaits_unfreeze: bool,
}

impl SharedThread {
    pub(super) fn new(threads: Threads, inbox: Arc<Inbox>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(
            inbox.heartbeat.wake(),
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
            awaits_unfreeze: false,
        })
    }

    /// Runs until the process ends.
    pub(super) fn run(mut self) {
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
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
            self.inbox.heartbeat.beat();
            for event in &events[..count] {
                match event.data() {
                    WAKE => self.accept_arrivals(),
                    token => self.drive(token, false),
                }
            }
            if !self.unfinished.is_empty() {
                self.drive_unfinished();
            }
            if std::mem::take(&mut self.awaits_unfreeze) {
                std::thread::sleep(FROZEN_RETRY_INTERVAL);
            } else if count == MAX_EVENTS {
                std::thread::yield_now();
            }
            if last_tick.elapsed() >= TICK {
                last_tick = Instant::now();
                self.expire(last_tick);
                self.promote_idle();
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
            if began.elapsed() >= UNFINISHED_SLICE {
                return;
            }
        }
    }

    /// Takes the new connections in; they may have sent something already.
    fn accept_arrivals(&mut self) {
        for connection in self.inbox.take() {
            let token = self.next;
            self.next += 1;
            match self.epoll.add(
                connection.socket(),
                EpollEvent::new(EpollFlags::EPOLLIN, token),
            ) {
                Ok(()) => {
                    let client = SharedConnection {
                        connection,
                        waits_for: NextStep::Read,
                        turns: TURNS_BETWEEN_MIGRATIONS,
                        is_unfinished: false,
                    };
                    self.connections.insert(token, client);
                    self.drive(token, false);
                }
                Err(error) => {
                    log::error!("watch a connection: {error}; it was closed");
                    self.inbox.decrement_load();
                }
            }
        }
    }

    /// Gives the connection a turn: the one that is due to an unfinished one, or one because
    /// something has come.
    fn drive(&mut self, token: u64, is_due: bool) {
        let Some(client) = self.connections.get_mut(&token) else {
            return;
        };
        // Its turn comes, though something may have come from it too.
        if client.is_unfinished && !is_due {
            return;
        }
        let next = client.connection.drive(&mut self.executor, Mode::Shared);
        // A long round is none that hangs.
        self.inbox.heartbeat.beat();
        client.is_unfinished = matches!(next, NextStep::Again | NextStep::Unfrozen);
        match next {
            NextStep::Again => self.unfinished.push_back(token),
            NextStep::Unfrozen => {
                self.awaits_unfreeze = true;
                self.unfinished.push_back(token);
            }
            NextStep::Close => self.close(token),
            NextStep::Read if client.waits_for == NextStep::Read => {
                client.turns -= 1;
                if client.turns == 0 {
                    client.turns = TURNS_BETWEEN_MIGRATIONS;
                    self.migrate(token);
                }
            }
            NextStep::Write if client.waits_for == NextStep::Write => {}
            NextStep::Read | NextStep::Write => {
                let flags = if next == NextStep::Read {
                    EpollFlags::EPOLLIN
                } else {
                    EpollFlags::EPOLLOUT
                };
                client.waits_for = next;
                if let Err(error) = self.epoll.modify(
                    client.connection.socket(),
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
        let expired: Vec<(u64, NextStep)> = self
            .connections
            .iter_mut()
            .filter_map(|(token, client)| Some((*token, client.connection.expire(executor, now)?)))
            .collect();
        for (token, next) in expired {
            match next {
                NextStep::Close => self.close(token),
                _ => self.drive(token, false),
            }
        }
    }

    /// Gives connections threads of their own, if there are few enough now.
    fn promote_idle(&mut self) {
        if self.threads.is_crowded() {
            return;
        }
        let idle = |client: &mut SharedConnection| {
            client.waits_for == NextStep::Read && !client.is_unfinished && client.connection.is_served()
        };
        for (_, client) in self.connections.extract_if(|_, client| idle(client)) {
            self.threads.serve(release(client, &self.epoll, &self.inbox));
        }
    }

    /// Gives the connection to the thread that runs on the processor where it comes in, if that has
    /// no more of them. What the client sends and takes then stays in that processor's cache, and
    /// no thread gets many more than another.
    fn migrate(&mut self, token: u64) {
        let Some(client) = self.connections.get(&token) else {
            return;
        };
        let (Ok(here), Some(there)) = (
            sched_getcpu(),
            incoming::processor(client.connection.socket()),
        ) else {
            return;
        };
        self.inbox.runs_on(here);
        if here != there
            && let Some(home) = self.threads.on(there)
            && home.load() <= self.inbox.load()
            && let Some(client) = self.connections.remove(&token)
        {
            home.put(release(client, &self.epoll, &self.inbox));
        }
    }

    fn close(&mut self, token: u64) {
        // Dropping the connection closes its socket, and that ends the watch.
        self.connections.remove(&token);
        self.inbox.decrement_load();
    }
}

/// The connection, which its thread no longer watches.
fn release(client: SharedConnection, epoll: &Epoll, inbox: &Inbox) -> Connection {
    // It was added, and a failure would only wake this thread for nothing.
    let _ = epoll.delete(client.connection.socket());
    inbox.decrement_load();
    client.connection
}
