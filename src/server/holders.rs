//! Connections that hold buffer memory while the server waits for their peers: for the rest of a
//! request, or until replies are read. When memory is short, the one stalled for longest loses its
//! memory and is closed.

use dsm_core::net::Stream;
use nix::poll::PollFlags;
use std::collections::HashMap;
use std::net::{IpAddr, Shutdown};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A holder without progress for this long is stalled: its memory may go to others. Long for a peer
/// in the same network, which takes 1 MiB in some milliseconds, and short for those that need the
/// memory.
pub(super) const STALLED: Duration = Duration::from_millis(250);

/// Bytes sent or received that count as progress. A peer that reads its replies byte by byte is
/// stalled.
pub(super) const PROGRESS: usize = 64 << 10;

/// A connection that holds memory.
pub(super) struct Holder {
    /// Bytes that it holds of the budget.
    pub(super) bytes: u64,
    pub(super) peer: IpAddr,
    /// When the wait began, or when there was progress last; `None` while the wait is not for the
    /// peer, which then keeps its memory.
    pub(super) since: Option<Instant>,
    /// What its thread waits for: POLLIN for a request, POLLOUT for room for replies.
    pub(super) awaits: PollFlags,
    pub(super) socket: Arc<Stream>,
}

/// All holders, by the numbers that the budget gave to connections.
#[derive(Default)]
pub(super) struct Holders {
    by_number: HashMap<u64, Holder>,
    /// The bytes held per address.
    by_peer: HashMap<IpAddr, u64>,
}

impl Holders {
    /// Registers the connection of this number, which is not registered yet.
    pub(super) fn insert(&mut self, number: u64, holder: Holder) {
        *self.by_peer.entry(holder.peer).or_default() += holder.bytes;
        self.by_number.insert(number, holder);
    }

    /// Removes the connection of this number. `None` when it has lost its memory.
    pub(super) fn remove(&mut self, number: u64) -> Option<Holder> {
        let holder = self.by_number.remove(&number)?;
        if let Some(sum) = self.by_peer.get_mut(&holder.peer) {
            *sum -= holder.bytes;
            if *sum == 0 {
                self.by_peer.remove(&holder.peer);
            }
        }
        Some(holder)
    }

    /// The bytes that connections of this address hold together.
    pub(super) fn of_peer(&self, peer: IpAddr) -> u64 {
        self.by_peer.get(&peer).copied().unwrap_or(0)
    }

    /// Evicts the holder stalled for longest, of one address or of all: shuts its socket down, so
    /// that its thread closes the connection. Returns the bytes that were freed; `None` when no
    /// holder is stalled.
    pub(super) fn evict(&mut self, peer: Option<IpAddr>, now: Instant) -> Option<u64> {
        loop {
            let stalled = |holder: &Holder| {
                peer.is_none_or(|peer| holder.peer == peer)
                    && holder
                        .since
                        .is_some_and(|since| now.saturating_duration_since(since) >= STALLED)
            };
            let stalled = self
                .by_number
                .iter_mut()
                .filter(|(_, holder)| stalled(holder));
            let (&number, holder) = stalled.min_by_key(|(_, holder)| holder.since)?;
            if holder.socket.is_ready(holder.awaits) {
                // The wait is the thread's and not the peer's: a busy server must not mistake its
                // own delay for that of its peers. So that the search looks at the others now.
                holder.since = Some(now);
                continue;
            }
            let holder = self.remove(number)?;
            // If the socket is closed already, its thread knows.
            let _ = holder.socket.shutdown(Shutdown::Both);
            return Some(holder.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    #[test]
    fn the_longest_stalled_of_an_address_or_of_all_loses_its_memory_and_one_with_progress_does_not()
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut peers = Vec::new();
        let mut socket = || {
            peers.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            Arc::new(Stream::from(listener.accept().unwrap().0))
        };
        let now = Instant::now();
        let (one, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let mut holders = Holders::default();
        let mut hold = |number, bytes, peer, age: Option<Duration>| {
            holders.insert(
                number,
                Holder {
                    bytes,
                    peer,
                    since: age.map(|age| now.checked_sub(age).unwrap()),
                    awaits: PollFlags::POLLIN,
                    socket: socket(),
                },
            );
        };
        hold(1, 10, one, Some(STALLED * 2));
        hold(2, 20, one, Some(STALLED));
        hold(3, 30, other, Some(STALLED * 4));
        hold(4, 40, other, Some(STALLED / 2));
        hold(5, 50, one, Some(STALLED * 8));
        hold(6, 60, other, None);
        assert_eq!((holders.of_peer(one), holders.of_peer(other)), (80, 130));
        peers[4].write_all(b"the rest").unwrap();
        assert_eq!(holders.evict(Some(one), now), Some(10));
        assert_eq!(holders.evict(None, now), Some(30));
        assert_eq!(holders.evict(None, now), Some(20));
        assert_eq!(
            holders.evict(None, now),
            None,
            "one has only begun to wait, one has received something, and one does not wait for its peer"
        );
        assert!(holders.remove(3).is_none(), "it has lost its memory");
        assert_eq!(
            peers[2].read(&mut [0; 1]).unwrap(),
            0,
            "its connection is closed"
        );
        assert_eq!(
            [4, 5, 6].map(|number| holders.remove(number).map(|holder| holder.bytes)),
            [Some(40), Some(50), Some(60)]
        );
        assert_eq!((holders.of_peer(one), holders.of_peer(other)), (0, 0));
    }
}
