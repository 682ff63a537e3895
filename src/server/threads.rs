//! The threads that serve connections: one each up to a bound, then a few that share the rest through epoll.

use super::connection::{Connection, Mode, Next, TICK};
use super::context::Context;
use super::conversation::Executor;
use crate::segment::{SegmentError, Worker};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Events taken from epoll at once.
const EVENTS: usize = 256;

/// The token of a shared thread's wake-up.
const WAKE: u64 = u64::MAX;

/// The most threads that share connections: more than cores would only switch.
const MAX_SHARED: usize = 8;

/// All threads that serve connections.
pub(super) struct Threads {
    context: Arc<Context>,
    shared: Vec<Arc<Inbox>>,
}

/// Where a shared thread finds its new connections.
struct Inbox {
    arrivals: Mutex<Vec<Connection>>,
    wake: EventFd,
    /// Connections that the thread has or will have.
    load: AtomicUsize,
}

impl Threads {
    /// Starts the shared threads, so that whatever happens later a connection finds a thread.
    pub(super) fn start(context: &Arc<Context>) -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from).clamp(2, MAX_SHARED);
        let shared = (0..count)
            .map(|number| {
                let inbox = Arc::new(Inbox {
                    arrivals: Mutex::new(Vec::new()),
                    wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
                    load: AtomicUsize::new(0),
                });
                let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
                epoll.add(&inbox.wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
                let worker = context.segment.worker().map_err(io::Error::other)?;
                let executor = Executor { context: Arc::clone(context), worker };
                let thread =
                    Shared { inbox: Arc::clone(&inbox), epoll, executor, connections: HashMap::new(), next: 0 };
                std::thread::Builder::new().name(format!("dsm-shared-{number}")).spawn(move || thread.run())?;
                Ok(inbox)
            })
            .collect::<io::Result<Vec<_>>>()?;
        context.threads.fetch_add(count, Ordering::Relaxed);
        Ok(Self { context: Arc::clone(context), shared })
    }

    /// Serves the connection on a thread of its own, or on a shared one when the bound is reached.
    pub(super) fn serve(&self, connection: Connection) {
        let own = self.context.threads.load(Ordering::Relaxed) - self.shared.len();
        if own >= self.context.limits.threads() {
            return self.share(connection);
        }
        match self.context.segment.worker() {
            Ok(worker) => self.dedicate(connection, worker),
            Err(error @ SegmentError::TooManyWorkers { .. }) => {
                ::log::debug!("{error}: the connection shares a thread");
                self.share(connection);
            }
            Err(error) => ::log::error!("{error}"),
        }
    }

    /// Serves the connection on the shared thread that has the fewest.
    pub(super) fn share(&self, connection: Connection) {
        // There are at least two shared threads.
        let Some(inbox) = self.shared.iter().min_by_key(|inbox| inbox.load.load(Ordering::Relaxed)) else { return };
        inbox.load.fetch_add(1, Ordering::Relaxed);
        inbox.arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        // It can fail only if the counter is full, and then the thread wakes up too.
        let _ = inbox.wake.write(1);
    }

    /// Connections on shared threads, those that are only told that they are too many among them.
    pub(super) fn shared_load(&self) -> usize {
        self.shared.iter().map(|inbox| inbox.load.load(Ordering::Relaxed)).sum()
    }

    fn dedicate(&self, mut connection: Connection, worker: Worker) {
        let context = Arc::clone(&self.context);
        context.threads.fetch_add(1, Ordering::Relaxed);
        let thread = std::thread::Builder::new().name("dsm-connection".to_owned()).spawn(move || {
            let mut executor = Executor { context: Arc::clone(&context), worker };
            serve_alone(&mut connection, &mut executor);
            context.threads.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = thread {
            self.context.threads.fetch_sub(1, Ordering::Relaxed);
            ::log::error!("no thread for a connection: {error}; it was closed");
        }
    }
}

/// Serves one connection to its end; every call on the socket waits, but never longer than a tick.
fn serve_alone(connection: &mut Connection, executor: &mut Executor) {
    let socket = connection.socket();
    if let Err(error) = socket.set_read_timeout(Some(TICK)).and_then(|()| socket.set_write_timeout(Some(TICK))) {
        ::log::error!("set a time limit on a connection: {error}; it was closed");
        return;
    }
    while connection.drive(executor, Mode::Blocking) != Next::Close {
        if connection.expire(executor, Instant::now()) == Some(Next::Close) {
            return;
        }
    }
}

/// A thread that many connections share.
struct Shared {
    inbox: Arc<Inbox>,
    epoll: Epoll,
    executor: Executor,
    connections: HashMap<u64, (Connection, Next)>,
    next: u64,
}

impl Shared {
    /// Runs until the process ends.
    fn run(mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut unfinished: Vec<u64> = Vec::new();
        let mut last_tick = Instant::now();
        loop {
            let timeout = if unfinished.is_empty() { TICK } else { std::time::Duration::ZERO };
            let timeout = EpollTimeout::try_from(timeout).unwrap_or(EpollTimeout::ZERO);
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => {
                    ::log::error!("epoll: {error}; the process ends");
                    std::process::abort();
                }
            };
            let mut ready = std::mem::take(&mut unfinished);
            for event in &events[..count] {
                match event.data() {
                    WAKE => self.arrive(&mut ready),
                    token => ready.push(token),
                }
            }
            for token in ready {
                self.drive(token, &mut unfinished);
            }
            if last_tick.elapsed() >= TICK {
                last_tick = Instant::now();
                self.expire(last_tick, &mut unfinished);
            }
        }
    }

    /// Takes the new connections in; they may have sent something already.
    fn arrive(&mut self, ready: &mut Vec<u64>) {
        // Resets the counter; empty already is fine.
        let _ = self.inbox.wake.read();
        let arrivals = std::mem::take(&mut *self.inbox.arrivals.lock().unwrap_or_else(PoisonError::into_inner));
        for connection in arrivals {
            let token = self.next;
            self.next += 1;
            match self.epoll.add(connection.socket(), EpollEvent::new(EpollFlags::EPOLLIN, token)) {
                Ok(()) => {
                    self.connections.insert(token, (connection, Next::Read));
                    ready.push(token);
                }
                Err(error) => {
                    ::log::error!("watch a connection: {error}; it was closed");
                    self.inbox.load.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
    }

    fn drive(&mut self, token: u64, unfinished: &mut Vec<u64>) {
        let Some((connection, waits_for)) = self.connections.get_mut(&token) else { return };
        let next = connection.drive(&mut self.executor, Mode::Shared);
        match next {
            Next::Again => unfinished.push(token),
            Next::Close => self.close(token),
            Next::Read | Next::Write if next == *waits_for => {}
            Next::Read | Next::Write => {
                let flags = if next == Next::Read { EpollFlags::EPOLLIN } else { EpollFlags::EPOLLOUT };
                *waits_for = next;
                if let Err(error) = self.epoll.modify(connection.socket(), &mut EpollEvent::new(flags, token)) {
                    ::log::error!("watch a connection: {error}; it was closed");
                    self.close(token);
                }
            }
        }
    }

    fn expire(&mut self, now: Instant, unfinished: &mut Vec<u64>) {
        let executor = &self.executor;
        let expired: Vec<(u64, Next)> = self
            .connections
            .iter_mut()
            .filter_map(|(token, (connection, _))| Some((*token, connection.expire(executor, now)?)))
            .collect();
        for (token, next) in expired {
            match next {
                Next::Close => self.close(token),
                _ => unfinished.push(token),
            }
        }
    }

    fn close(&mut self, token: u64) {
        // Dropping the connection closes its socket, and that ends the watch.
        self.connections.remove(&token);
        self.inbox.load.fetch_sub(1, Ordering::Relaxed);
    }
}
