//! What all calls of a client and of its clones share: the layout, the incarnations seen, idle
//! connections, and the shared memory of servers on this host.

use super::error::{Error, ServerName};
use super::link::Link;
use super::local::LocalSegment;
use super::server_connection::ServerConnection;
use dsm_core::layout::{Layout, Piece};
use dsm_core::segment::{generation, watch_forks};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Idle connections to one server that are kept. When more threads than this call at the same time,
/// some of their calls connect again.
const MAX_IDLE: usize = 16;

/// A connection that was idle for longer is checked before it is used. A server that restarted has
/// closed it, and a request that is not sent on it cannot end with an unknown outcome.
const MAX_UNCHECKED_IDLE: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub(super) struct ClientState {
    pub(super) layout: Layout,
    /// The layout's text, which hello carries.
    pub(super) canonical: String,
    /// The incarnation of each server's memory when it was first seen; zero before. Clients with
    /// connections of their own share it.
    incarnations: Arc<[AtomicU64]>,
    peers: Peers,
    /// Whether connections are kept: not if a child of this process could take them for its own.
    keeps_connections: bool,
}

/// What a process has of each server. A child made by `fork(2)` gets a new one: the parent uses its
/// connections, threads that the child does not have may hold its locks, and its shared memory is
/// that of another participant.
#[derive(Debug)]
struct Peers {
    /// The generation of the process, see [`generation`].
    generation: u64,
    of_process: Vec<Peer>,
    of_child: OnceLock<Box<Peers>>,
}

#[derive(Debug)]
struct Peer {
    idle: Mutex<IdleConnections>,
    /// Sessions that were abandoned while a change of theirs may have executed. The server may
    /// still execute it until it has answered a hello for the session. There are at most as many as
    /// connections were in use at the same time.
    abandoned: Mutex<Vec<[u8; 16]>>,
    /// Whether there is one: read without the mutex before each request.
    has_abandoned: AtomicBool,
    /// None in a child, which goes by TCP.
    local: Option<LocalSegment>,
}

/// The idle connections to a server. A box stays where it is when its connection is taken and given
/// back, for each call.
#[allow(clippy::vec_box)]
type IdleConnections = Vec<Box<KeptConnection>>;

/// A connection as the pool keeps it for its next owner.
#[derive(Debug)]
struct KeptConnection {
    state: ServerConnection,
    link: Link,
    idle_since: Instant,
    /// The thread that gave it to the pool; zero before.
    last_user: usize,
}

impl Peers {
    fn new(n: usize, is_child: bool) -> Self {
        let peer = |_| Peer {
            idle: Mutex::default(),
            abandoned: Mutex::default(),
            has_abandoned: AtomicBool::new(false),
            local: (!is_child).then(LocalSegment::default),
        };
        Self {
            generation: generation(),
            of_process: (0..n).map(peer).collect(),
            of_child: OnceLock::new(),
        }
    }

    /// The peers of this process.
    #[inline]
    fn own(&self) -> &[Peer] {
        let mut found = self;
        while found.generation != generation() {
            found = found
                .of_child
                .get_or_init(|| Box::new(Self::new(self.of_process.len(), true)));
        }
        &found.of_process
    }
}

impl Peer {
    fn abandoned(&self) -> MutexGuard<'_, Vec<[u8; 16]>> {
        self.abandoned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn change_abandoned(&self, change: impl FnOnce(&mut Vec<[u8; 16]>)) {
        let mut sessions = self.abandoned();
        change(&mut sessions);
        self.has_abandoned
            .store(!sessions.is_empty(), Ordering::Release);
    }

    fn idle(&self) -> MutexGuard<'_, IdleConnections> {
        // A panic of another thread leaves a list of whole connections.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientState {
    pub(super) fn new(layout: Layout) -> Self {
        let keeps_connections = watch_forks().is_ok();
        let canonical = layout.canonical();
        let peers = Peers::new(layout.server_count(), false);
        let incarnations = (0..layout.server_count())
            .map(|_| AtomicU64::new(0))
            .collect();
        Self {
            layout,
            canonical,
            incarnations,
            peers,
            keeps_connections,
        }
    }

    /// The same with no connection.
    pub(super) fn without_connections(&self) -> Self {
        Self {
            layout: self.layout.clone(),
            canonical: self.canonical.clone(),
            incarnations: Arc::clone(&self.incarnations),
            peers: Peers::new(self.layout.server_count(), false),
            keeps_connections: self.keeps_connections,
        }
    }

    /// A server as errors name it.
    pub(super) fn name(&self, server: usize) -> ServerName<'_> {
        ServerName {
            server,
            address: &self.layout.addresses()[server],
        }
    }

    /// The pieces of a range, in address order.
    pub(super) fn pieces(
        &self,
        address: u64,
        length: u64,
    ) -> Result<impl Iterator<Item = Piece> + use<>, Error> {
        self.layout
            .pieces(address, length)
            .map_err(Error::outside_memory)
    }

    /// Checks that there is a server with this index.
    pub(super) fn check_server(&self, server: usize) -> Result<(), Error> {
        let count = self.incarnations.len();
        if server < count {
            Ok(())
        } else {
            Err(Error::no_such_server(server, count))
        }
    }

    /// The incarnation of the server's memory that this client knows; zero for none.
    pub(super) fn known_incarnation(&self, server: usize) -> u64 {
        self.incarnations[server].load(Ordering::Acquire)
    }

    /// Checks the incarnation that a server tells against the one that this client knows; if it
    /// knows none, it knows this one from now on.
    ///
    /// # Errors
    /// The incarnation that this client knows, if it differs.
    pub(super) fn check_incarnation(&self, server: usize, found: u64) -> Result<(), u64> {
        let first_seen = &self.incarnations[server];
        match first_seen.compare_exchange(0, found, Ordering::AcqRel, Ordering::Acquire) {
            Err(known) if known != found => Err(known),
            _ => Ok(()),
        }
    }

    /// Forgets the incarnation of a server's memory, and every connection that knows it.
    pub(super) fn forget_incarnation(&self, server: usize) {
        if let Some(peer) = self.peers.own().get(server) {
            self.incarnations[server].store(0, Ordering::Release);
            peer.idle().clear();
            peer.change_abandoned(Vec::clear);
            peer.local.iter().for_each(LocalSegment::forget);
        }
    }

    /// Notes a session that was abandoned while a change of it may have executed. The next calls to
    /// the server supersede it first, so that they see what it changed and it changes nothing after
    /// them.
    pub(super) fn abandon_session(&self, server: usize, id: [u8; 16]) {
        let peer = &self.peers.own()[server];
        peer.change_abandoned(|sessions| sessions.push(id));
        // A read of the shared memory would not wait for what dsmd is about to execute.
        peer.local.iter().for_each(LocalSegment::forget);
    }

    /// The server has answered a hello for the session: it executes no more of its changes.
    pub(super) fn superseded(&self, server: usize, id: [u8; 16]) {
        self.peers.own()[server].change_abandoned(|sessions| sessions.retain(|other| *other != id));
    }

    /// Whether the session is still to be superseded.
    pub(super) fn is_abandoned(&self, server: usize, id: [u8; 16]) -> bool {
        self.peers.own()[server].abandoned().contains(&id)
    }

    /// Whether sessions of the server are to be superseded.
    pub(super) fn has_abandoned(&self, server: usize) -> bool {
        self.peers.own()[server]
            .has_abandoned
            .load(Ordering::Acquire)
    }

    /// Sessions of the server that are to be superseded before anything else is asked of it. Each
    /// call gets them in another order, so that many calls share the work.
    pub(super) fn abandoned(&self, server: usize) -> Vec<[u8; 16]> {
        if !self.has_abandoned(server) {
            return Vec::new();
        }
        let mut sessions = self.peers.own()[server].abandoned();
        if !sessions.is_empty() {
            sessions.rotate_left(1);
        }
        sessions.clone()
    }

    /// What this process has of the server's shared memory; `None` in a child of `fork(2)`.
    #[inline]
    pub(super) fn local(&self, server: usize) -> Option<&LocalSegment> {
        self.peers.own()[server].local.as_ref()
    }

    /// A connection that is not open and has no session.
    pub(super) fn new_connection(&self, server: usize, now: Instant) -> ServerConnection {
        let mut connection = ServerConnection::new(server, now);
        connection.to_supersede = self.abandoned(server);
        connection
    }

    /// Takes a connection to the server out of the pool; if there is none, one is made when it is
    /// first used, and opened when it is first driven.
    pub(super) fn take_connection(
        self: &Arc<Self>,
        server: usize,
        now: Instant,
    ) -> PooledConnection {
        let mut kept = if self.has_abandoned(server) {
            None
        } else {
            take_idle(&mut self.peers.own()[server].idle())
        };
        if let Some(kept) = &mut kept {
            kept.state.attempts = 0;
            if now.saturating_duration_since(kept.idle_since) > MAX_UNCHECKED_IDLE
                && kept.link.is_stale()
            {
                kept.state
                    .disconnect("it closed the idle connection".into(), now);
                kept.link.close();
            }
        }
        PooledConnection {
            shared: Arc::clone(self),
            server,
            taken: now,
            kept,
        }
    }
}

/// Takes the connection that this thread used last; if it has none there, the one that was idle for
/// longest, whose last user is the least likely to want it again. A connection that wandered between
/// threads would, on the server, wake the thread of another one at each call, as a rule on another
/// processor.
fn take_idle(idle: &mut IdleConnections) -> Option<Box<KeptConnection>> {
    let mark = thread_mark();
    let of_thread = idle.iter().rposition(|one| one.last_user == mark);
    let place = of_thread.or_else(|| {
        let places = 0..idle.len();
        places.min_by_key(|place| idle[*place].idle_since)
    })?;
    Some(idle.swap_remove(place))
}

/// A number that no other living thread of this process has. A later thread may have it again, and
/// then continues with the connections of the earlier one.
fn thread_mark() -> usize {
    thread_local! {
        static MARK: Cell<u8> = const { Cell::new(0) };
    }
    MARK.with(|mark| std::ptr::from_ref(mark).addr())
}

/// A connection in use. It goes back to the pool when this is dropped, unless a request on it has
/// no reply.
#[derive(Debug)]
pub(super) struct PooledConnection {
    shared: Arc<ClientState>,
    pub(super) server: usize,
    taken: Instant,
    /// `None` until it is first used, if the pool had none.
    kept: Option<Box<KeptConnection>>,
}

impl PooledConnection {
    pub(super) fn state(&self) -> Option<&ServerConnection> {
        Some(&self.kept.as_ref()?.state)
    }

    /// Whether this process made it, and not the one of which this is a child by `fork(2)`.
    #[inline]
    pub(super) fn is_own(&self) -> bool {
        self.kept.as_ref().is_none_or(|kept| kept.state.is_own())
    }

    pub(super) fn link(&self) -> Option<&Link> {
        Some(&self.kept.as_ref()?.link)
    }

    /// The connection and its link, and what all connections share.
    #[inline]
    pub(super) fn parts(&mut self) -> (&ClientState, &mut ServerConnection, &mut Link) {
        let Self { shared, kept, .. } = self;
        let kept = kept.get_or_insert_with(|| {
            Box::new(KeptConnection {
                state: shared.new_connection(self.server, self.taken),
                link: Link::default(),
                idle_since: self.taken,
                last_user: 0,
            })
        });
        (shared, &mut kept.state, &mut kept.link)
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        let Some(mut kept) = self.kept.take().filter(|kept| kept.state.is_own()) else {
            return;
        };
        let state = &mut kept.state;
        if !state.is_clean() {
            let sent = state.sent_bytes;
            state.session.disconnected(sent);
            if state.session.may_have_executed() {
                self.shared.abandon_session(self.server, state.session.id);
            }
            return;
        }
        kept.idle_since = Instant::now();
        kept.last_user = thread_mark();
        let mut idle = self.shared.peers.own()[self.server].idle();
        if self.shared.keeps_connections && idle.len() < MAX_IDLE {
            idle.push(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::server_connection::Phase;
    use super::*;

    fn client_state() -> Arc<ClientState> {
        let layout = Layout::new("dsm", 4096, vec!["127.0.0.1:1".into()]).unwrap();
        Arc::new(ClientState::new(layout))
    }

    /// A connection that the pool keeps, which only has its session's id.
    fn kept_connection(id: u8, last_user: usize, idle_since: Instant) -> Box<KeptConnection> {
        let mut state = ServerConnection::new(0, idle_since);
        state.session.id = [id; 16];
        Box::new(KeptConnection {
            state,
            link: Link::default(),
            idle_since,
            last_user,
        })
    }

    #[test]
    fn a_thread_gets_the_connection_that_it_used_last_else_the_one_that_was_idle_for_longest() {
        let (now, mine) = (Instant::now(), thread_mark());
        let later = now + Duration::from_millis(1);
        let mut idle = vec![
            kept_connection(1, mine, now),
            kept_connection(2, mine + 1, later),
            kept_connection(3, mine + 2, now),
            kept_connection(4, mine, later),
        ];
        let taken: Vec<u8> =
            std::iter::from_fn(|| Some(take_idle(&mut idle)?.state.session.id[0])).collect();
        assert_eq!(taken, [4, 1, 3, 2]);
    }

    #[test]
    fn the_pool_notes_the_thread_that_gives_a_connection_back() {
        let shared = client_state();
        let give_back = |id: u8| {
            let mut pooled = shared.take_connection(0, Instant::now());
            let (_, state, _) = pooled.parts();
            state.session.id = [id; 16];
            state.phase = Phase::Ready;
            pooled
        };
        let first = give_back(1);
        std::thread::scope(|scope| {
            scope.spawn(|| drop(give_back(2))).join().unwrap();
            drop(first);
            // It was idle for less time than the other one.
            let taken = shared.take_connection(0, Instant::now());
            assert_eq!(taken.state().unwrap().session.id[0], 1);
        });
    }

    #[test]
    fn the_first_incarnation_seen_stays_until_it_is_forgotten() {
        let shared = client_state();
        assert_eq!(
            (
                shared.check_incarnation(0, 5),
                shared.check_incarnation(0, 5),
                shared.check_incarnation(0, 6)
            ),
            (Ok(()), Ok(()), Err(5))
        );
        assert_eq!(shared.known_incarnation(0), 5);
        shared.forget_incarnation(0);
        assert_eq!(
            (shared.known_incarnation(0), shared.check_incarnation(0, 6)),
            (0, Ok(()))
        );
    }
}
