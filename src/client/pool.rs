//! What all calls of a client share: the layout, the incarnations seen, and idle links.

use super::Error;
use super::link::Link;
use crate::layout::Layout;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Links to one server that are kept while nobody uses them. More threads than this may call at the same time; they
/// then connect anew now and then.
const MAX_IDLE: usize = 16;

/// A link that was idle for longer is looked at before it is used: a server that restarted has closed it, and a request
/// that is not sent there cannot end as one of unknown outcome.
const TRUSTED_IDLE: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) layout: Layout,
    /// The layout's text, as hello carries it.
    pub(super) canonical: String,
    peers: Vec<Peer>,
}

#[derive(Debug, Default)]
struct Peer {
    idle: Mutex<Vec<Link>>,
    /// Of the server's memory when it was first seen; zero before.
    incarnation: AtomicU64,
}

impl Peer {
    fn idle(&self) -> MutexGuard<'_, Vec<Link>> {
        // A list of whole links is whole whatever its last user died of.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    pub(super) fn new(layout: Layout) -> Self {
        let canonical = layout.canonical();
        let peers = (0..layout.n()).map(|_| Peer::default()).collect();
        Self { layout, canonical, peers }
    }

    pub(super) fn address(&self, server: usize) -> &str {
        &self.layout.addresses()[server]
    }

    /// Makes sure that there is a server with this index.
    pub(super) fn check_server(&self, server: usize) -> Result<(), Error> {
        let count = self.peers.len();
        if server < count { Ok(()) } else { Err(Error::NoSuchServer { server, count }) }
    }

    /// The incarnation that this client knows the server's memory by; zero for none.
    pub(super) fn known_incarnation(&self, server: usize) -> u64 {
        self.peers[server].incarnation.load(Ordering::Acquire)
    }

    /// Compares the incarnation that a server says with the one first seen, which it becomes if there is none.
    ///
    /// # Errors
    /// The one that was seen before, if it is another one.
    pub(super) fn meet(&self, server: usize, found: u64) -> Result<(), u64> {
        let first_seen = &self.peers[server].incarnation;
        match first_seen.compare_exchange(0, found, Ordering::AcqRel, Ordering::Acquire) {
            Err(known) if known != found => Err(known),
            _ => Ok(()),
        }
    }

    /// Forgets the incarnation of a server's memory, and the links that knew it.
    pub(super) fn forget_incarnation(&self, server: usize) {
        if let Some(peer) = self.peers.get(server) {
            peer.incarnation.store(0, Ordering::Release);
            peer.idle().clear();
        }
    }

    /// A link to the server, of which the caller becomes the owner; it connects when it is first driven.
    pub(super) fn check_out(self: &Arc<Self>, server: usize, now: Instant) -> Checked {
        let idle = self.peers[server].idle().pop();
        let mut link = idle.unwrap_or_else(|| Link::new(server, now));
        link.attempts = 0;
        if now.saturating_duration_since(link.idle_since) > TRUSTED_IDLE && link.stream().is_some() && link.is_stale() {
            link.disconnect("it closed the idle connection".into(), now);
        }
        Checked { shared: Arc::clone(self), link }
    }
}

/// A link in use. It goes back when this is dropped, unless something is unanswered in it.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) shared: Arc<Shared>,
    link: Link,
}

impl Checked {
    /// Puts a link in its place that has neither connection nor session.
    pub(super) fn reset(&mut self, now: Instant) {
        self.link = Link::new(self.link.server, now);
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
        if !self.link.is_clean() {
            return;
        }
        let now = Instant::now();
        let mut link = std::mem::replace(&mut self.link, Link::new(0, now));
        link.idle_since = now;
        let mut idle = self.shared.peers[link.server].idle();
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
        assert_eq!((shared.meet(0, 5), shared.meet(0, 5), shared.meet(0, 6)), (Ok(()), Ok(()), Err(5)));
        assert_eq!(shared.known_incarnation(0), 5);
        shared.forget_incarnation(0);
        assert_eq!((shared.known_incarnation(0), shared.meet(0, 6)), (0, Ok(())));
    }
}
