//! A thread that serves many connections through epoll, each for a bounded turn.

use super::connection::{Connection, Mode, NextStep, TICK};
use super::executor::Executor;
use super::threads::{Inbox, Threads};
use nix::errno::Errno;
use nix::sched::sched_getcpu;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Events taken from one `epoll_wait`.
const MAX_EVENTS: usize = 64;

/// The epoll token of the thread's own eventfd.
const WAKE: u64 = u64::MAX;

/// How long connections with work left are served before the thread looks for new events. A peer
/// that asks for little waits this long plus one turn, not for the turns of all busy peers.
const UNFINISHED_SLICE: Duration = Duration::from_micros(50);

/// How long the thread sleeps when all unfinished connections wait for buffer memory.
const MEMORY_RETRY_INTERVAL: Duration = Duration::from_millis(1);

/// Turns of a connection between two checks whether it should migrate.
const TURNS_BETWEEN_MIGRATIONS: u32 = 64;

/// Why a connection may get a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// Epoll reports it, or it is new.
    Event,
    /// It comes next in the queue of connections with work left.
    Due,
    /// A deadline has passed, and there is something to tell the peer.
    Deadline,
}

/// A connection that this thread serves.
struct SharedConnection {
    connection: Connection,
    /// The event that epoll is registered for.
    waits_for: NextStep,
    /// Turns before the next check whether it should migrate.
    turns: u32,
    /// It is in the queue of connections with work left.
    is_unfinished: bool,
}

/// See the module's comment.
pub(super) struct SharedThread {
    threads: Threads,
    inbox: Arc<Inbox>,
    epoll: Epoll,
    executor: Executor,
    connections: HashMap<u64, SharedConnection>,
    next: u64,
    /// Connections with work left, in the order of their turns.
    unfinished: VecDeque<u64>,
    /// How many of the last turns of unfinished connections only waited for buffer memory.
    starved: usize,
    /// Connections whose next request waits for the end of a freeze. They get no turn, and epoll
    /// watches them only for a broken connection.
    parked: Vec<u64>,
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
            starved: 0,
            parked: Vec::new(),
        })
    }

    /// Runs until the process ends.
    pub(super) fn run(mut self) {
        let mut events = [EpollEvent::empty(); MAX_EVENTS];
        let mut last_tick = Instant::now();
        loop {
            let timeout = if self.unfinished.is_empty() {
                TICK
            } else if self.starved < self.unfinished.len() {
                Duration::ZERO
            } else {
                MEMORY_RETRY_INTERVAL
            };
            let timeout = EpollTimeout::try_from(timeout).unwrap_or(EpollTimeout::ZERO);
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => {
                    log::error!("epoll_wait fails: {error}; dsmd aborts");
                    std::process::abort();
                }
            };
            self.inbox.heartbeat.beat();
            for event in &events[..count] {
                match event.data() {
                    WAKE => {
                        self.accept_arrivals();
                        self.unpark();
                    }
                    token => self.drive(token, Cause::Event),
                }
            }
            if !self.unfinished.is_empty() {
                self.drive_unfinished();
            }
            if count == MAX_EVENTS {
                std::thread::yield_now();
            }
            if last_tick.elapsed() >= TICK {
                last_tick = Instant::now();
                self.unpark();
                self.expire(last_tick);
                self.promote_idle();
            }
        }
    }

    /// Gives each connection with work left one more turn, until the time slice ends.
    fn drive_unfinished(&mut self) {
        let began = Instant::now();
        for _ in 0..self.unfinished.len() {
            let Some(token) = self.unfinished.pop_front() else {
                return;
            };
            self.drive(token, Cause::Due);
            self.starved = match self.connections.get(&token) {
                Some(client) if client.connection.is_starved() => self.starved + 1,
                _ => 0,
            };
            if began.elapsed() >= UNFINISHED_SLICE {
                return;
            }
        }
    }

    /// Queues an unfinished connection: one with replies to send comes first, because they occupy
    /// memory until they are sent.
    fn queue(&mut self, token: u64) {
        match self.connections.get(&token) {
            Some(client) if client.connection.is_sending() => self.unfinished.push_front(token),
            _ => self.unfinished.push_back(token),
        }
    }

    /// Gives every connection whose request was parked a turn. While the memory is frozen, its
    /// request is parked again.
    fn unpark(&mut self) {
        for token in std::mem::take(&mut self.parked) {
            if let Some(client) = self.connections.get_mut(&token) {
                client.is_unfinished = true;
                self.unfinished.push_back(token);
            }
        }
    }

    /// Registers the new connections, and serves them immediately: they may have sent something
    /// already.
    fn accept_arrivals(&mut self) {
        for connection in self.inbox.take() {
            let token = self.next;
            self.next += 1;
            match self.epoll.add(
                connection.socket().for_poll(),
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
                    self.drive(token, Cause::Event);
                }
                Err(error) => {
                    log::error!("cannot register a connection with epoll: {error}; it was closed");
                    self.inbox.decrement_load();
                }
            }
        }
    }

    /// Gives the connection a turn, now or later.
    fn drive(&mut self, token: u64, cause: Cause) {
        let Some(client) = self.connections.get_mut(&token) else {
            return;
        };
        match cause {
            Cause::Due => {}
            // Its turn comes in the queue.
            _ if client.is_unfinished => return,
            // While a request is parked, epoll reports only that the connection is broken.
            Cause::Event if client.waits_for == NextStep::Unfrozen => return self.close(token),
            // The short turns of other connections come first.
            Cause::Event if client.connection.is_long() => {
                client.is_unfinished = true;
                return self.queue(token);
            }
            Cause::Event | Cause::Deadline => {}
        }
        let next = client.connection.drive(&mut self.executor, Mode::Shared);
        // A long round of turns must not look like a stalled thread.
        self.inbox.heartbeat.beat();
        client.is_unfinished = next == NextStep::Again;
        if next == NextStep::Unfrozen {
            self.parked.push(token);
            if self.parked.len() == 1 {
                let heartbeat = Arc::clone(&self.inbox.heartbeat);
                self.threads.gate_watcher.wake_when_unfrozen(heartbeat);
            }
        }
        match next {
            NextStep::Again => self.queue(token),
            NextStep::Close => self.close(token),
            NextStep::Read if client.waits_for == NextStep::Read => {
                client.turns -= 1;
                if client.turns == 0 {
                    client.turns = TURNS_BETWEEN_MIGRATIONS;
                    self.migrate(token);
                }
            }
            NextStep::Write | NextStep::Unfrozen if client.waits_for == next => {}
            NextStep::Read | NextStep::Write | NextStep::Unfrozen => {
                let flags = match next {
                    NextStep::Read => EpollFlags::EPOLLIN,
                    NextStep::Write => EpollFlags::EPOLLOUT,
                    _ => EpollFlags::empty(),
                };
                client.waits_for = next;
                if let Err(error) = self.epoll.modify(
                    client.connection.socket().for_poll(),
                    &mut EpollEvent::new(flags, token),
                ) {
                    log::error!("cannot register a connection with epoll: {error}; it was closed");
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
                _ => self.drive(token, Cause::Deadline),
            }
        }
    }

    /// Gives idle connections their own threads, if there are few enough connections.
    fn promote_idle(&mut self) {
        if self.threads.is_crowded() {
            return;
        }
        let idle = |client: &mut SharedConnection| {
            client.waits_for == NextStep::Read
                && !client.is_unfinished
                && client.connection.is_served()
        };
        for (_, client) in self.connections.extract_if(|_, client| idle(client)) {
            self.threads
                .serve(release(client, &self.epoll, &self.inbox));
        }
    }

    /// Moves the connection to the shared thread on the processor that receives its packets, unless
    /// that thread serves more connections. The client's data then stays in that processor's cache,
    /// and the load stays balanced.
    fn migrate(&mut self, token: u64) {
        let Some(client) = self.connections.get(&token) else {
            return;
        };
        let (Ok(here), Some(there)) = (sched_getcpu(), client.connection.socket().processor())
        else {
            return;
        };
        self.inbox.set_processor(here);
        if here != there
            && let Some(target) = self.threads.on_processor(there)
            && target.load() <= self.inbox.load()
            && let Some(client) = self.connections.remove(&token)
        {
            target.put(release(client, &self.epoll, &self.inbox));
        }
    }

    fn close(&mut self, token: u64) {
        // Dropping the connection closes its socket, which removes it from epoll.
        self.connections.remove(&token);
        self.inbox.decrement_load();
    }
}

/// Removes the connection from its thread and returns it.
fn release(client: SharedConnection, epoll: &Epoll, inbox: &Inbox) -> Connection {
    // The socket was added before. A failure would cause spurious wake-ups only.
    let _ = epoll.delete(client.connection.socket().for_poll());
    inbox.decrement_load();
    client.connection
}
