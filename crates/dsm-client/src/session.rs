//! One session with one server, and the requests in it that have no reply yet: what has to be sent
//! again after a break, and what is known of their outcome. No I/O.

use dsm_core::protocol::{Opcode, WINDOW};
use std::collections::VecDeque;

/// Bytes that the unanswered requests of a session carry there or back. One request is always
/// allowed. Enough for 10 Gb/s at 5 ms, and little enough that a resend is short.
const MAX_IN_FLIGHT: u64 = 8 << 20;

/// A request that was given an id and has no reply yet.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) id: u64,
    pub(super) opcode: Opcode,
    /// Number of the job it is a part of.
    pub(super) job: u64,
    /// First byte, counted from the job's first.
    pub(super) position: u64,
    /// Bytes of the memory it is about.
    pub(super) length: u64,
    /// Where its frame begins in the byte stream of this connection; meaningless before it is
    /// encoded.
    start: u64,
    /// Where its frame ends.
    end: u64,
    /// Bytes of it left this process on an earlier connection, and no server has said since that it
    /// was not executed.
    exposed: bool,
}

impl Sent {
    /// Whether its frame is among the first `bytes` of the connection's stream.
    pub(super) fn left_within(&self, bytes: u64) -> bool {
        self.end <= bytes
    }

    /// Whether it may have changed the memory.
    pub(super) fn in_doubt(&self) -> bool {
        self.exposed && self.opcode.mutates()
    }
}

/// The session of one link.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// Random; all zeros until the first hello.
    pub(super) id: [u8; 16],
    /// The server has answered a hello of this session.
    pub(super) greeted: bool,
    /// That of the server's memory when it did; zero before.
    pub(super) incarnation: u64,
    last_id: u64,
    unanswered: VecDeque<Sent>,
    /// How many of them, from the front, are encoded on this connection.
    encoded: usize,
    in_flight: u64,
}

impl Session {
    /// Whether the window has room for one more request, of `length` bytes.
    pub(super) fn has_room(&self, length: u64) -> bool {
        // The distance of ids, and not the number of requests: the server keeps old values for so
        // many ids, and after a session was forgotten, what was given up leaves gaps.
        let fits = self
            .unanswered
            .front()
            .is_none_or(|oldest| self.last_id + 1 - oldest.id < WINDOW);
        fits && (self.in_flight == 0 || self.in_flight + length <= MAX_IN_FLIGHT)
    }

    /// Adds a request; it gets the next id.
    pub(super) fn add(&mut self, opcode: Opcode, job: u64, position: u64, length: u64) {
        self.last_id += 1;
        self.in_flight += length;
        let id = self.last_id;
        self.unanswered.push_back(Sent {
            id,
            opcode,
            job,
            position,
            length,
            start: 0,
            end: 0,
            exposed: false,
        });
    }

    pub(super) fn is_idle(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// The oldest request that is still to be encoded on this connection.
    pub(super) fn to_encode(&self) -> Option<&Sent> {
        self.unanswered.get(self.encoded)
    }

    /// Notes where the frame of that request is in the connection's stream.
    pub(super) fn encoded(&mut self, start: u64, end: u64) {
        if let Some(sent) = self.unanswered.get_mut(self.encoded) {
            (sent.start, sent.end) = (start, end);
            self.encoded += 1;
        }
    }

    /// The request that the next reply must be for.
    pub(super) fn awaited(&self) -> Option<&Sent> {
        self.unanswered.front().filter(|_| self.encoded > 0)
    }

    /// Takes that request: its reply is complete.
    pub(super) fn answered(&mut self) -> Option<Sent> {
        let sent = self.unanswered.pop_front()?;
        self.encoded -= 1;
        self.in_flight -= sent.length;
        Some(sent)
    }

    /// The connection is gone, after `bytes` bytes were handed to it: all that has no reply is to
    /// be sent again.
    pub(super) fn disconnected(&mut self, bytes: u64) {
        for sent in self.unanswered.iter_mut().take(self.encoded) {
            sent.exposed |= sent.start < bytes;
        }
        self.encoded = 0;
    }

    /// The highest id that was given to a request.
    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// The server has answered hello; `last_executed` is at most [`Session::last_id`]. Returns the
    /// requests that it cannot speak for, if it has forgotten the session: their outcome is
    /// unknown, and they are not sent again.
    #[must_use]
    pub(super) fn hello_answered(
        &mut self,
        resumed: bool,
        last_executed: u64,
        incarnation: u64,
    ) -> Vec<Sent> {
        let forgotten = self.greeted && !resumed;
        self.greeted = true;
        if incarnation != 0 {
            self.incarnation = incarnation;
        }
        if forgotten {
            return self.give_up();
        }
        // The reply to hello is a firm statement: what is above has not been executed, and will not
        // be before it is sent again.
        for sent in &mut self.unanswered {
            sent.exposed &= sent.id <= last_executed;
        }
        Vec::new()
    }

    /// Goes on as another session, because the server's memory is another one. Returns what is in
    /// doubt.
    #[must_use]
    pub(super) fn renew(&mut self) -> Vec<Sent> {
        (self.id, self.greeted, self.incarnation) = ([0; 16], false, 0);
        self.give_up()
    }

    /// Takes out what may have been executed; the rest stays, as requests that were never sent.
    fn give_up(&mut self) -> Vec<Sent> {
        let (doubtful, mut kept): (VecDeque<_>, VecDeque<_>) = self
            .unanswered
            .drain(..)
            .partition(|sent: &Sent| sent.in_doubt());
        for sent in &mut kept {
            sent.exposed = false;
        }
        self.in_flight = kept.iter().map(|sent| sent.length).sum();
        self.unanswered = kept;
        doubtful.into()
    }

    /// Whether a request without a reply may have changed the memory, or may still do so.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.unanswered.iter().any(Sent::in_doubt)
    }

    /// Takes everything that has no reply; the session is not to be used again.
    #[must_use]
    pub(super) fn abandon(&mut self) -> VecDeque<Sent> {
        std::mem::take(self).unanswered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session_with(requests: u64) -> Session {
        let mut session = Session::default();
        assert!(session.hello_answered(false, 0, 7).is_empty());
        for number in 0..requests {
            let opcode = if number % 2 == 0 {
                Opcode::FetchAdd
            } else {
                Opcode::Read
            };
            session.add(opcode, number, 0, 8);
            session.encoded(number * 32, number * 32 + 32);
        }
        session
    }

    fn ids(sent: &[Sent]) -> Vec<u64> {
        sent.iter().map(|sent| sent.id).collect()
    }

    #[test]
    fn only_a_change_of_which_a_byte_left_is_in_doubt_when_the_session_is_gone() {
        let mut session = session_with(6);
        // The first two frames left, one byte of the third, nothing of the fourth.
        session.disconnected(65);
        assert_eq!(ids(&session.hello_answered(false, 0, 7)), [1, 3]);
        assert_eq!(
            session
                .unanswered
                .iter()
                .map(|sent| sent.id)
                .collect::<Vec<_>>(),
            [2, 4, 5, 6]
        );
        assert_eq!(session.to_encode().unwrap().id, 2);
        assert_eq!(session.in_flight, 32);
    }

    #[test]
    fn a_resumed_session_sends_everything_again_and_doubts_only_what_was_executed() {
        let mut session = session_with(6);
        session.disconnected(u64::MAX);
        assert!(session.hello_answered(true, 3, 7).is_empty());
        assert_eq!(session.to_encode().unwrap().id, 1);
        let doubtful: Vec<u64> = session
            .unanswered
            .iter()
            .filter(|sent| sent.in_doubt())
            .map(|sent| sent.id)
            .collect();
        assert_eq!(doubtful, [1, 3]);
        // A second break before anything was sent again leaves it so.
        session.disconnected(0);
        assert_eq!(
            session
                .abandon()
                .iter()
                .filter(|sent| sent.in_doubt())
                .count(),
            2
        );
    }

    #[test]
    fn the_window_and_the_bytes_in_flight_are_bounded() {
        let mut session = session_with(WINDOW);
        assert!(!session.has_room(0));
        session.answered();
        assert!(session.has_room(MAX_IN_FLIGHT - 63 * 8));
        assert!(!session.has_room(MAX_IN_FLIGHT - 63 * 8 + 1));
        assert!(
            Session::default().has_room(u64::MAX),
            "one request is always allowed"
        );
    }

    #[test]
    fn gaps_in_the_ids_count_for_the_window() {
        let mut session = session_with(WINDOW);
        session.disconnected(u64::MAX);
        assert_eq!(
            session.hello_answered(false, 0, 7).len(),
            32,
            "the changes are given up"
        );
        session.add(Opcode::Write, 1, 0, 1);
        assert_eq!(session.unanswered.len(), 33);
        assert!(
            !session.has_room(0),
            "the oldest has id 2, the next would have 66"
        );
        session.encoded(0, 32);
        session.answered();
        assert!(session.has_room(0), "the oldest has id 4");
    }
}
