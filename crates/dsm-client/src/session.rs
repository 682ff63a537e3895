//! A session with one server, and its requests that have no reply: which of them are to be sent
//! again after a break, and which may have been executed. No I/O.

use dsm_core::protocol::{Opcode, WINDOW};
use std::collections::VecDeque;

/// The most bytes that the unanswered requests of a session carry there or back; one request is
/// always allowed. Enough for 10 Gb/s at 5 ms, and few enough that a resend is short.
const MAX_IN_FLIGHT: u64 = 8 << 20;

/// A request that has an id and no reply.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) id: u64,
    pub(super) opcode: Opcode,
    /// Number of the call that it is a part of.
    pub(super) call: u64,
    /// First byte, counted from the call's first.
    pub(super) position: u64,
    /// Bytes of the memory that it is about.
    pub(super) length: u64,
    /// Where its frame begins in this connection's byte stream; without a meaning before it is
    /// encoded.
    start: u64,
    /// Where its frame ends.
    end: u64,
    /// Bytes of it left this process on an earlier connection, and the server has not said since
    /// that it was not executed.
    exposed: bool,
}

impl Sent {
    /// Whether its frame is among the first `bytes` of the connection's stream.
    pub(super) fn left_within(&self, bytes: u64) -> bool {
        self.end <= bytes
    }

    /// Whether the server may have executed this change, or may still do so.
    pub(super) fn may_have_executed(&self) -> bool {
        self.exposed && self.opcode.mutates()
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// Random; all zeros until the first hello.
    pub(super) id: [u8; 16],
    /// Whether the server has answered a hello of this session.
    pub(super) is_established: bool,
    /// The incarnation of the server's memory when it did; zero before.
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
        // The distance of ids, not the number of requests: the server keeps old values for so many
        // ids, and requests that were taken out after a session was forgotten leave gaps.
        let fits = self
            .unanswered
            .front()
            .is_none_or(|oldest| self.last_id + 1 - oldest.id < WINDOW);
        fits && (self.in_flight == 0 || self.in_flight + length <= MAX_IN_FLIGHT)
    }

    /// Adds a request, which gets the next id.
    pub(super) fn add(&mut self, opcode: Opcode, call: u64, position: u64, length: u64) {
        self.last_id += 1;
        self.in_flight += length;
        let id = self.last_id;
        self.unanswered.push_back(Sent {
            id,
            opcode,
            call,
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

    /// The oldest request that is not yet encoded on this connection.
    pub(super) fn to_encode(&self) -> Option<&Sent> {
        self.unanswered.get(self.encoded)
    }

    /// Notes where that request's frame is in the connection's byte stream.
    pub(super) fn encoded(&mut self, start: u64, end: u64) {
        if let Some(sent) = self.unanswered.get_mut(self.encoded) {
            (sent.start, sent.end) = (start, end);
            self.encoded += 1;
        }
    }

    /// The request that the next reply must answer.
    pub(super) fn awaited(&self) -> Option<&Sent> {
        self.unanswered.front().filter(|_| self.encoded > 0)
    }

    /// Whether one request, and no other, has no reply.
    pub(super) fn awaits_one(&self) -> bool {
        self.unanswered.len() == 1
    }

    /// Takes that request out: its reply is complete.
    pub(super) fn answered(&mut self) -> Option<Sent> {
        let sent = self.unanswered.pop_front()?;
        self.encoded -= 1;
        self.in_flight -= sent.length;
        Some(sent)
    }

    /// The connection ended after the kernel took `bytes` bytes: everything without a reply is to
    /// be sent again.
    pub(super) fn disconnected(&mut self, bytes: u64) {
        for sent in self.unanswered.iter_mut().take(self.encoded) {
            sent.exposed |= sent.start < bytes;
        }
        self.encoded = 0;
    }

    /// The highest id of a request.
    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// The server has answered hello; `last_executed` is at most [`Session::last_id`]. If it has
    /// forgotten the session, returns the changes that it may have executed: their outcome is
    /// unknown, and they are not sent again.
    #[must_use]
    pub(super) fn hello_answered(
        &mut self,
        resumed: bool,
        last_executed: u64,
        incarnation: u64,
    ) -> Vec<Sent> {
        let forgotten = self.is_established && !resumed;
        self.is_established = true;
        if incarnation != 0 {
            self.incarnation = incarnation;
        }
        if forgotten {
            return self.take_uncertain();
        }
        // The reply to hello is a firm statement: no request with a higher id was executed, and
        // none will be before it is sent again.
        for sent in &mut self.unanswered {
            sent.exposed &= sent.id <= last_executed;
        }
        Vec::new()
    }

    /// Begins another session, because the incarnation of the server's memory changed. Returns the
    /// changes that may have been executed.
    #[must_use]
    pub(super) fn restart(&mut self) -> Vec<Sent> {
        (self.id, self.is_established, self.incarnation) = ([0; 16], false, 0);
        self.take_uncertain()
    }

    /// Takes out the changes that may have been executed; the rest stays, as requests that were
    /// never sent.
    fn take_uncertain(&mut self) -> Vec<Sent> {
        let (uncertain, mut kept): (VecDeque<_>, VecDeque<_>) = self
            .unanswered
            .drain(..)
            .partition(|sent: &Sent| sent.may_have_executed());
        for sent in &mut kept {
            sent.exposed = false;
        }
        self.in_flight = kept.iter().map(|sent| sent.length).sum();
        self.unanswered = kept;
        uncertain.into()
    }

    /// Whether the server may have executed a change that has no reply, or may still do so.
    pub(super) fn may_have_executed(&self) -> bool {
        self.unanswered.iter().any(Sent::may_have_executed)
    }

    /// Takes everything that has no reply; the session sends no request after this.
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
    fn only_a_change_of_which_a_byte_left_may_have_executed_when_the_session_is_forgotten() {
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
    fn a_resumed_session_sends_everything_again_and_only_what_was_executed_is_uncertain() {
        let mut session = session_with(6);
        session.disconnected(u64::MAX);
        assert!(session.hello_answered(true, 3, 7).is_empty());
        assert_eq!(session.to_encode().unwrap().id, 1);
        let uncertain: Vec<u64> = session
            .unanswered
            .iter()
            .filter(|sent| sent.may_have_executed())
            .map(|sent| sent.id)
            .collect();
        assert_eq!(uncertain, [1, 3]);
        // A second break before anything was sent again leaves it so.
        session.disconnected(0);
        assert_eq!(
            session
                .abandon()
                .iter()
                .filter(|sent| sent.may_have_executed())
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
            "the changes are taken out"
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
