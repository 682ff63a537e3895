//! What all calls of a client share: the layout, the incarnations seen, and idle links.

use super::error::{Error, ServerName};
use super::link::Link;
use super::local::Local;
use dsm_core::layout::{Layout, Piece};
use dsm_core::segment::generation;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Links to one server that are kept while nobody uses them. More threads than this may call at the
/// same time; they then connect anew now and then.
const MAX_IDLE: usize = 16;

/// A link that was idle for longer is looked at before it is used: a server that restarted has
/// closed it, and a request that is not sent there cannot end as one of unknown outcome.
const TRUSTED_IDLE: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) layout: Layout,
    /// The layout's text, as hello carries it.
    pub(super) canonical: String,
    /// Of each server's memory when it was first seen; zero before.
    incarnations: Vec<AtomicU64>,
    peers: Peers,
}

/// What a process has of each server. A child made by `fork(2)` has its own: its parent's
/// connections are in use, its locks may be held by threads that are not there, and its shared
/// memory is that of another participant.
#[derive(Debug)]
struct Peers {
    /// That of the process, see [`generation`].
    generation: u64,
    of_process: Vec<Peer>,
    of_child: OnceLock<Box<Peers>>,
}

#[derive(Debug)]
struct Peer {
    idle: Mutex<Vec<Link>>,
    /// Sessions that were given up while a change of theirs was in doubt. The server may still
    /// execute it, until it has answered a hello for the session. At most as many as there were
    /// connections in use at the same time: no other has a session that was greeted.
    abandoned: Mutex<Vec<[u8; 16]>>,
    /// None in a child: it goes by TCP.
    local: Option<Local>,
}

impl Peers {
    fn new(n: usize, is_child: bool) -> Self {
        let peer = |_| Peer {
            idle: Mutex::default(),
            abandoned: Mutex::default(),
            local: (!is_child).then(Local::default),
        };
        Self {
            generation: generation(),
            of_process: (0..n).map(peer).collect(),
            of_child: OnceLock::new(),
        }
    }

    /// Those of this process.
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

    fn idle(&self) -> MutexGuard<'_, Vec<Link>> {
        // A list of whole links is whole whatever its last user died of.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    pub(super) fn new(layout: Layout) -> Self {
        let canonical = layout.canonical();
        let peers = Peers::new(layout.n(), false);
        let incarnations = (0..layout.n()).map(|_| AtomicU64::new(0)).collect();
        Self {
            layout,
            canonical,
            incarnations,
            peers,
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

    /// Makes sure that there is a server with this index.
    pub(super) fn check_server(&self, server: usize) -> Result<(), Error> {
        let count = self.incarnations.len();
        if server < count {
            Ok(())
        } else {
            Err(Error::no_such_server(server, count))
        }
    }

    /// The incarnation that this client knows the server's memory by; zero for none.
    pub(super) fn known_incarnation(&self, server: usize) -> u64 {
        self.incarnations[server].load(Ordering::Acquire)
    }

    /// Compares the incarnation that a server says with the one first seen, which it becomes if
    /// there is none.
    ///
    /// # Errors
    /// The one that was seen before, if it is another one.
    pub(super) fn meet(&self, server: usize, found: u64) -> Result<(), u64> {
        let first_seen = &self.incarnations[server];
        match first_seen.compare_exchange(0, found, Ordering::AcqRel, Ordering::Acquire) {
            Err(known) if known != found => Err(known),
            _ => Ok(()),
        }
    }

    /// Forgets the incarnation of a server's memory, and what knew it.
    pub(super) fn forget_incarnation(&self, server: usize) {
        if let Some(peer) = self.peers.own().get(server) {
            self.incarnations[server].store(0, Ordering::Release);
            peer.idle().clear();
            peer.abandoned().clear();
            peer.local.iter().for_each(Local::forget);
        }
    }

    /// Notes a session that was given up while a change of it was in doubt. The next calls to the
    /// server supersede it first, so that they see what it did and it does nothing after them.
    pub(super) fn abandon_session(&self, server: usize, id: [u8; 16]) {
        let peer = &self.peers.own()[server];
        peer.abandoned().push(id);
        // A read of the shared memory would not wait for what dsmd is about to execute.
        peer.local.iter().for_each(Local::forget);
    }

    /// The server has answered a hello for the session: it executes no more of its changes.
    pub(super) fn superseded(&self, server: usize, id: [u8; 16]) {
        self.peers.own()[server]
            .abandoned()
            .retain(|other| *other != id);
    }

    /// Sessions of the server that are to be superseded before anything else is asked of it.
    pub(super) fn abandoned(&self, server: usize) -> Vec<[u8; 16]> {
        self.peers.own()[server].abandoned().clone()
    }

    /// What this process has of the server's shared memory; `None` when it shall have nothing.
    #[inline]
    pub(super) fn local(&self, server: usize) -> Option<&Local> {
        self.peers.own()[server].local.as_ref()
    }

    /// A link to the server, of which the caller becomes the owner; it connects when it is first
    /// driven.
    pub(super) fn check_out(self: &Arc<Self>, server: usize, now: Instant) -> Checked {
        let abandoned = self.abandoned(server);
        let idle = if abandoned.is_empty() {
            self.peers.own()[server].idle().pop()
        } else {
            None
        };
        let mut link = idle.unwrap_or_else(|| Link::new(server, now));
        link.to_supersede = abandoned;
        link.attempts = 0;
        if now.saturating_duration_since(link.idle_since) > TRUSTED_IDLE
            && link.stream().is_some()
            && link.is_stale()
        {
            link.disconnect("it closed the idle connection".into(), now);
        }
        Checked {
            shared: Arc::clone(self),
            link,
            generation: generation(),
        }
    }
}

/// A link in use. It goes back when this is dropped, unless something is unanswered in it.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) shared: Arc<Shared>,
    link: Link,
    /// Of the process that took it.
    generation: u64,
}

impl Checked {
    /// Puts a link in its place that has neither connection nor session.
    pub(super) fn reset(&mut self, now: Instant) {
        let server = self.link.server;
        self.link = Link::new(server, now);
        self.link.to_supersede = self.shared.abandoned(server);
    }
}

impl Deref for Checked {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

impl DerefMut for Checked {
    fn deref_mut(&mut self) -> &mut Link {
        &mut self.link
    }
}

impl Drop for Checked {
    fn drop(&mut self) {
        if self.generation != generation() {
            return;
        }
        if !self.link.is_clean() {
            let sent = self.link.sent_bytes;
            self.link.session.disconnected(sent);
            if self.link.session.is_in_doubt() {
                let (server, id) = (self.link.server, self.link.session.id);
                self.shared.abandon_session(server, id);
            }
            return;
        }
        let now = Instant::now();
        let mut link = std::mem::replace(&mut self.link, Link::new(0, now));
        link.idle_since = now;
        let mut idle = self.shared.peers.own()[link.server].idle();
        if idle.len() < MAX_IDLE {
            idle.push(link);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_incarnation_seen_stays_until_it_is_forgotten() {
        let layout = Layout::new("dsm", 4096, vec!["127.0.0.1:1".into()]).unwrap();
        let shared = Shared::new(layout);
        assert_eq!(
            (shared.meet(0, 5), shared.meet(0, 5), shared.meet(0, 6)),
            (Ok(()), Ok(()), Err(5))
        );
        assert_eq!(shared.known_incarnation(0), 5);
        shared.forget_incarnation(0);
        assert_eq!(
            (shared.known_incarnation(0), shared.meet(0, 6)),
            (0, Ok(()))
        );
    }
}
