//! Who is connected with an agent, and who has to leave for another: no peer takes all places, and
//! a session that waits for its master's next word is the first to go.

use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The most masters at a time: one has the claim, others are told so, or fetch a snapshot.
const MOST: usize = 32;

/// The most of one address: half of them, so that one machine alone never keeps the others out. A
/// machine has one as a rule, for the master or the server that it is.
const MOST_OF_PEER: usize = MOST / 2;

/// The sessions of an agent.
#[derive(Default)]
pub(super) struct Seats {
    taken: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    seats: HashMap<u64, Occupant>,
    last: u64,
}

struct Occupant {
    socket: TcpStream,
    place: Place,
}

/// What decides who leaves.
#[derive(Debug, Clone, Copy)]
struct Place {
    peer: IpAddr,
    /// Since when it waits for its master and holds nothing; none while it works, or has a claim.
    idle_since: Option<Instant>,
}

/// A session's place, given back when dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    number: u64,
}

/// Whether there is room for another one.
#[derive(Debug, PartialEq, Eq)]
enum Room {
    Free,
    /// If this one leaves.
    After(u64),
    None,
}

impl Seats {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().seats.is_empty()
    }

    /// Ends every session as if its master had gone.
    pub(super) fn end_all(&self) {
        for occupant in self.lock().seats.values() {
            // Gone already: as well.
            let _ = occupant.socket.shutdown(Shutdown::Both);
        }
    }
}

impl Seat {
    /// Takes a place for a connection; from one that is idle if there is no other. None when there
    /// is none.
    pub(super) fn take(seats: &Arc<Seats>, socket: TcpStream, peer: IpAddr) -> Option<Self> {
        let mut table = seats.lock();
        let peer = peer.to_canonical();
        match room(
            table
                .seats
                .iter()
                .map(|(number, occupant)| (*number, occupant.place)),
            peer,
        ) {
            Room::Free => {}
            Room::After(number) => {
                // Its thread finds the connection closed, and has nothing to give back.
                if let Some(occupant) = table.seats.remove(&number) {
                    let _ = occupant.socket.shutdown(Shutdown::Both);
                }
            }
            Room::None => return None,
        }
        table.last += 1;
        let number = table.last;
        table.seats.insert(
            number,
            Occupant {
                socket,
                place: Place {
                    peer,
                    idle_since: Some(Instant::now()),
                },
            },
        );
        Some(Self {
            seats: Arc::clone(seats),
            number,
        })
    }

    /// Says that it waits for its master and holds nothing, or does not.
    pub(super) fn is_idle(&self, idle: bool) {
        if let Some(occupant) = self.seats.lock().seats.get_mut(&self.number) {
            occupant.place.idle_since = idle.then(Instant::now);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().seats.remove(&self.number);
    }
}

/// Of a peer that has its most, the one that is idle for longest leaves; of all that there can be,
/// that of the peer that has most of them.
fn room(seats: impl Iterator<Item = (u64, Place)>, peer: IpAddr) -> Room {
    let seats: Vec<(u64, Place)> = seats.collect();
    let of = |peer: IpAddr| seats.iter().filter(|(_, place)| place.peer == peer).count();
    let own_only = of(peer) >= MOST_OF_PEER;
    if !own_only && seats.len() < MOST {
        return Room::Free;
    }
    let idle = seats
        .iter()
        .filter(|(_, place)| !own_only || place.peer == peer);
    let idle =
        idle.filter_map(|(number, place)| Some((of(place.peer), place.idle_since?, *number)));
    let leaves = idle.max_by(|(many, since, _), (others, other_since, _)| {
        many.cmp(others).then(other_since.cmp(since))
    });
    leaves.map_or(Room::None, |(.., number)| Room::After(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::time::Duration;

    /// Peers by the last byte of their address, and whether each is idle; the first for longest.
    fn found(seats: &[(u8, bool)], peer: u8) -> Room {
        let (now, address) = (Instant::now(), |last| {
            IpAddr::from(Ipv4Addr::new(10, 0, 0, last))
        });
        let since =
            |number: usize, idle: bool| idle.then(|| now + Duration::from_secs(number as u64));
        let place = |number, (last, idle)| Place {
            peer: address(last),
            idle_since: since(number, idle),
        };
        let places = seats
            .iter()
            .enumerate()
            .map(|(number, seat)| (number as u64, place(number, *seat)));
        room(places, address(peer))
    }

    #[test]
    fn a_peer_that_has_half_of_all_places_makes_room_by_its_own() {
        let mut seats = [(1, true); MOST_OF_PEER].to_vec();
        assert_eq!(found(&seats[1..], 1), Room::Free);
        assert_eq!(found(&seats, 2), Room::Free);
        assert_eq!(found(&seats, 1), Room::After(0));
        seats[0].1 = false;
        assert_eq!(found(&seats, 1), Room::After(1));
        seats.iter_mut().for_each(|seat| seat.1 = false);
        seats.push((2, true));
        assert_eq!(
            found(&seats, 1),
            Room::None,
            "another's place is not its own"
        );
    }

    #[test]
    fn when_all_places_are_taken_the_peer_that_has_most_gives_one_up() {
        let mut seats = vec![(3, true), (3, true)];
        seats.extend([(1, false); MOST_OF_PEER]);
        seats.extend([(2, true); MOST - MOST_OF_PEER - 2]);
        assert_eq!(
            found(&seats, 3),
            Room::After(MOST_OF_PEER as u64 + 2),
            "those of peer 1 are at work"
        );
        seats.iter_mut().for_each(|seat| seat.1 &= seat.0 != 2);
        assert_eq!(found(&seats, 4), Room::After(0));
        seats.iter_mut().for_each(|seat| seat.1 = false);
        assert_eq!(found(&seats, 4), Room::None);
    }
}
