//! Admission of masters: bounds the connections of an agent, in all and for each address. When a
//! bound is reached, a new connection replaces an idle one. A connection that works or has the
//! snapshot lock is never closed for another.

use dsm_core::net::Stream;
use std::collections::HashMap;
use std::net::{IpAddr, Shutdown};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The most connections. At most one master has the snapshot lock; the others are refused it, or
/// fetch a snapshot.
const MAX_CONNECTIONS: usize = 32;

/// The most connections from one address: half of all, so that one machine cannot keep the others
/// out. A machine usually has one connection, for its master or its server.
const MAX_CONNECTIONS_PER_PEER: usize = MAX_CONNECTIONS / 2;

/// The connections of an agent.
#[derive(Default)]
pub(super) struct ConnectionTable {
    admitted: Mutex<AdmittedConnections>,
}

#[derive(Default)]
struct AdmittedConnections {
    connections: HashMap<u64, AdmittedConnection>,
    last: u64,
}

struct AdmittedConnection {
    socket: Stream,
    rank: EvictionRank,
}

/// What decides which connection is closed for a new one.
#[derive(Debug, Clone, Copy)]
struct EvictionRank {
    peer: IpAddr,
    /// Since when it waits for its master and holds nothing; None while it works or has the
    /// snapshot lock.
    idle_since: Option<Instant>,
}

/// The right of a connection to be served. Dropping it makes room for another.
pub(super) struct ConnectionPermit {
    connections: Arc<ConnectionTable>,
    number: u64,
}

/// What to do with a new connection.
#[derive(Debug, PartialEq, Eq)]
enum Admission {
    Admit,
    /// Admit it, and close the connection with this number.
    Evict(u64),
    Reject,
}

impl ConnectionTable {
    fn lock(&self) -> MutexGuard<'_, AdmittedConnections> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().connections.is_empty()
    }

    /// Closes every connection. Its handler ends as when the master closes it.
    pub(super) fn close_all(&self) {
        for connection in self.lock().connections.values() {
            // It fails when the peer has closed the connection, which is as good.
            let _ = connection.socket.shutdown(Shutdown::Both);
        }
    }
}

impl ConnectionPermit {
    /// Admits a connection, if need be by closing an idle one. None when the connection is refused.
    pub(super) fn acquire(
        connections: &Arc<ConnectionTable>,
        socket: Stream,
        peer: IpAddr,
    ) -> Option<Self> {
        let mut table = connections.lock();
        let peer = peer.to_canonical();
        match decide(
            table
                .connections
                .iter()
                .map(|(number, connection)| (*number, connection.rank)),
            peer,
        ) {
            Admission::Admit => {}
            Admission::Evict(number) => {
                // Its handler finds the connection closed, and holds nothing.
                if let Some(connection) = table.connections.remove(&number) {
                    let _ = connection.socket.shutdown(Shutdown::Both);
                }
            }
            Admission::Reject => return None,
        }
        table.last += 1;
        let number = table.last;
        table.connections.insert(
            number,
            AdmittedConnection {
                socket,
                rank: EvictionRank {
                    peer,
                    idle_since: Some(Instant::now()),
                },
            },
        );
        Some(Self {
            connections: Arc::clone(connections),
            number,
        })
    }

    /// Records whether the connection is idle: it waits for its master and holds nothing.
    pub(super) fn set_idle(&self, idle: bool) {
        if let Some(connection) = self.connections.lock().connections.get_mut(&self.number) {
            connection.rank.idle_since = idle.then(Instant::now);
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.connections.lock().connections.remove(&self.number);
    }
}

/// Decides about a new connection from `peer`. If the peer has the most connections that one
/// address may have, its connection that has been idle for longest is closed. If the agent has the
/// most that it may have, it is the one of the peer with the most connections.
fn decide(connections: impl Iterator<Item = (u64, EvictionRank)>, peer: IpAddr) -> Admission {
    let connections: Vec<(u64, EvictionRank)> = connections.collect();
    let of = |peer: IpAddr| {
        connections
            .iter()
            .filter(|(_, rank)| rank.peer == peer)
            .count()
    };
    let own_only = of(peer) >= MAX_CONNECTIONS_PER_PEER;
    if !own_only && connections.len() < MAX_CONNECTIONS {
        return Admission::Admit;
    }
    let idle = connections
        .iter()
        .filter(|(_, rank)| !own_only || rank.peer == peer);
    let idle = idle.filter_map(|(number, rank)| Some((of(rank.peer), rank.idle_since?, *number)));
    let leaves = idle.max_by(|(many, since, _), (others, other_since, _)| {
        many.cmp(others).then(other_since.cmp(since))
    });
    leaves.map_or(Admission::Reject, |(.., number)| Admission::Evict(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    /// The decision for these connections, each given as the last byte of its peer's address and
    /// whether it is idle. The first has been idle for longest.
    fn found(connections: &[(u8, bool)], peer: u8) -> Admission {
        let (now, address) = (Instant::now(), |last| {
            IpAddr::from(Ipv4Addr::new(10, 0, 0, last))
        });
        let since =
            |number: usize, idle: bool| idle.then(|| now + Duration::from_secs(number as u64));
        let rank = |number, (last, idle)| EvictionRank {
            peer: address(last),
            idle_since: since(number, idle),
        };
        let ranks = connections
            .iter()
            .enumerate()
            .map(|(number, connection)| (number as u64, rank(number, *connection)));
        decide(ranks, address(peer))
    }

    #[test]
    fn a_peer_with_half_of_all_connections_replaces_only_its_connections() {
        let mut connections = [(1, true); MAX_CONNECTIONS_PER_PEER].to_vec();
        assert_eq!(found(&connections[1..], 1), Admission::Admit);
        assert_eq!(found(&connections, 2), Admission::Admit);
        assert_eq!(found(&connections, 1), Admission::Evict(0));
        connections[0].1 = false;
        assert_eq!(found(&connections, 1), Admission::Evict(1));
        connections
            .iter_mut()
            .for_each(|connection| connection.1 = false);
        connections.push((2, true));
        assert_eq!(
            found(&connections, 1),
            Admission::Reject,
            "the idle connection is another peer's"
        );
    }

    #[test]
    fn when_the_agent_is_full_a_connection_of_the_peer_with_the_most_is_replaced() {
        let mut connections = vec![(3, true), (3, true)];
        connections.extend([(1, false); MAX_CONNECTIONS_PER_PEER]);
        connections.extend([(2, true); MAX_CONNECTIONS - MAX_CONNECTIONS_PER_PEER - 2]);
        assert_eq!(
            found(&connections, 3),
            Admission::Evict(MAX_CONNECTIONS_PER_PEER as u64 + 2),
            "the connections of peer 1 work"
        );
        connections
            .iter_mut()
            .for_each(|connection| connection.1 &= connection.0 != 2);
        assert_eq!(found(&connections, 4), Admission::Evict(0));
        connections
            .iter_mut()
            .for_each(|connection| connection.1 = false);
        assert_eq!(found(&connections, 4), Admission::Reject);
    }
}
