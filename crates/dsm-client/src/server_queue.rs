//! The calls for one server in order, and the protocol that carries them out, as a state machine. It
//! does no I/O and reads no clock: its driver opens the connections that it asks for, gives it the
//! time, carries bytes in both directions, and tells it when a connection ends. (It asks the system
//! for random numbers: for the id of a session, and for pauses.)

use super::Error;
use super::call::{Call, CallOutput};
use super::pool::ClientState;
use super::retry::{DisconnectReason, NO_ANSWER, SILENT_MACHINE};
use super::server_connection::{Phase, ServerConnection};
use dsm_core::protocol::{HelloRequest, Request, WINDOW};
use std::collections::VecDeque;
use std::time::Instant;
use zerocopy::IntoBytes;

/// The most calls without an outcome; a submission beyond waits.
const QUEUE: u64 = 2 * WINDOW;

/// Calls that are sent together while replies are awaited.
const MIN_BATCH: u64 = 16;

/// The payload of the reply to the oldest request, as far as it was received.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) received: usize,
    pub(super) total: usize,
    pub(super) value: u64,
}

/// What the machine wants of its driver, apart from bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    /// Nothing before [`ServerConnection::next_timeout`].
    Nothing,
    /// A connection: a look-up of the server's name, then an attempt at each of its addresses.
    Connection,
    /// An attempt at the next address: this one does not answer.
    NextAddress,
}

/// The calls for one server.
#[derive(Debug, Default)]
pub(super) struct ServerQueue<'a> {
    pub(super) calls: VecDeque<Call<'a>>,
    /// The number of the first call in `calls`, and of the first that is not wholly split into
    /// requests. Calls are numbered in the order of submission.
    first: u64,
    next_to_split: u64,
    pub(super) unfinished: u64,
    /// The rest of a long payload that is being sent.
    pub(super) tail: &'a [u8],
    pub(super) body: Option<Body>,
    /// Whether the first attempt that is answered is the last. After a refusal, or after a machine
    /// has said that no server is there, another attempt would find the same. No answer says
    /// nothing: a packet may be lost.
    pub(super) until_answered: bool,
}

/// The state machine: the calls for one server, and the connection that carries them.
#[derive(Debug)]
pub(super) struct QueueMachine<'m, 'a> {
    pub(super) shared: &'m ClientState,
    pub(super) connection: &'m mut ServerConnection,
    pub(super) queue: &'m mut ServerQueue<'a>,
}

impl<'a> ServerQueue<'a> {
    pub(super) fn is_full(&self) -> bool {
        self.unfinished >= QUEUE
    }

    /// Whether, after it was full, enough calls are finished that the next ones are sent in
    /// batches.
    pub(super) fn is_relieved(&self) -> bool {
        self.unfinished <= QUEUE / 2
    }

    /// Whether a call has no outcome.
    pub(super) fn is_busy(&self) -> bool {
        self.unfinished > 0
    }

    pub(super) fn push(&mut self, call: Call<'a>) {
        self.calls.push_back(call);
        self.unfinished += 1;
    }

    pub(super) fn front_is_finished(&self) -> bool {
        self.calls.front().is_some_and(Call::is_finished)
    }

    /// Takes the oldest call, if it is finished.
    pub(super) fn take(&mut self) -> Option<Result<CallOutput, Error>> {
        if !self.front_is_finished() {
            return None;
        }
        let call = self.calls.pop_front()?;
        self.first += 1;
        self.next_to_split = self.next_to_split.max(self.first);
        Some(call.outcome())
    }

    /// The call with this number, which has parts without a reply.
    pub(super) fn call(&mut self, number: u64) -> &mut Call<'a> {
        &mut self.calls[place(number, self.first)]
    }
}

impl<'a> QueueMachine<'_, 'a> {
    pub(super) fn server(&self) -> usize {
        self.connection.server
    }

    /// The server's address in the network map.
    pub(super) fn address(&self) -> &str {
        self.shared.name(self.server()).address
    }

    /// For a status or a ping: the first attempt that is answered is the last. They are about no
    /// memory, so that they need not wait for the end of other sessions.
    pub(super) fn ask_once(&mut self) {
        self.queue.until_answered = true;
        self.connection.to_supersede.clear();
    }

    /// Whether to send at once: no reply is awaited, or there are enough calls for a batch.
    pub(super) fn is_due(&self) -> bool {
        let queue = &self.queue;
        let waiting = queue.first + queue.calls.len() as u64 - queue.next_to_split;
        self.connection.session.is_idle() || waiting >= MIN_BATCH
    }

    /// What the machine wants of its driver now; to be asked while there is no established
    /// connection.
    pub(super) fn demand(&mut self, now: Instant) -> Demand {
        match self.connection.phase {
            Phase::Down(until) if now >= until => {
                self.connection.attempt();
                Demand::Connection
            }
            Phase::Connecting(until) if now >= until => {
                self.connection.unanswered(NO_ANSWER);
                Demand::NextAddress
            }
            _ => Demand::Nothing,
        }
    }

    /// Whether there is a connection that can carry bytes.
    pub(super) fn is_established(&self) -> bool {
        matches!(self.connection.phase, Phase::Handshake | Phase::Ready)
    }

    /// Whether it has no connection, or wants the one that it had to be closed.
    pub(super) fn is_down(&self) -> bool {
        matches!(self.connection.phase, Phase::Down(_))
    }

    /// The driver tries an address of the server.
    pub(super) fn connecting(&mut self, now: Instant) {
        self.connection.connecting(now);
    }

    /// The attempt at an address of the server failed.
    pub(super) fn address_failed(&mut self, reason: String) {
        self.connection.reason = Some(reason);
    }

    /// An address was not tried, or has not answered: another attempt may succeed.
    pub(super) fn address_unanswered(&mut self, reason: &str) {
        self.connection.unanswered(reason);
    }

    /// Every address of the server was tried.
    pub(super) fn no_address_left(&mut self, now: Instant) {
        let last = self.connection.reason.clone();
        let reason = last.unwrap_or_else(|| "no attempt to connect succeeded".into());
        self.disconnected(reason, now);
    }

    /// The connection is established.
    pub(super) fn connected(&mut self, now: Instant) {
        self.connection.established();
        if let Err(reason) = self.say_hello() {
            self.recover(reason, now);
        }
    }

    /// The connection ended, or there will be none.
    pub(super) fn disconnected(&mut self, reason: String, now: Instant) {
        self.recover(DisconnectReason::Broken(reason), now);
    }

    /// The server's machine does not answer any more: the connection ends, as an attempt to connect
    /// without an answer.
    pub(super) fn silent(&mut self, now: Instant) {
        self.connection.unanswered(SILENT_MACHINE);
        self.disconnected(SILENT_MACHINE.into(), now);
    }

    fn say_hello(&mut self) -> Result<(), DisconnectReason> {
        let known = self.shared.known_incarnation(self.server());
        while let Some(id) = self.connection.to_supersede.last().copied() {
            if self.shared.is_abandoned(self.server(), id) {
                self.encode_hello(id, known, true);
                return Ok(());
            }
            // Another call has superseded it.
            self.connection.to_supersede.pop();
        }
        if self.connection.session.incarnation != 0 && self.connection.session.incarnation != known
        {
            let uncertain = self.connection.session.restart();
            self.fail_uncertain(
                &uncertain,
                "the server lost its memory, and the loss was accepted before the reply came",
            );
        }
        let session = &mut self.connection.session;
        if session.id == [0; 16] {
            getrandom::fill(&mut session.id).map_err(|error| {
                DisconnectReason::Broken(format!("the system has no random numbers: {error}"))
            })?;
        }
        let (id, is_established) = (session.id, session.is_established);
        self.encode_hello(id, known, is_established);
        Ok(())
    }

    fn encode_hello(&mut self, session: [u8; 16], known: u64, resume: bool) {
        #[allow(clippy::cast_possible_truncation)] // at most MAX_SERVERS
        let index = self.connection.server as u32;
        let hello = HelloRequest::new(index, session, known, resume);
        let payload = [hello.as_bytes(), self.shared.canonical.as_bytes()].concat();
        self.connection.encode(0, Request::Hello(&payload));
    }

    /// The bytes to send next, in two parts; `None` when everything is sent, or the window is full.
    #[inline]
    pub(super) fn transmit(&mut self, now: Instant) -> Option<(&[u8], &'a [u8])> {
        if self.is_all_sent() {
            if self.connection.phase == Phase::Ready
                && let Err(reason) = self.encode_batch(now)
            {
                self.recover(reason, now);
            }
            if self.is_all_sent() {
                return None;
            }
        }
        Some((self.connection.unsent(), self.queue.tail))
    }

    fn is_all_sent(&self) -> bool {
        self.connection.is_flushed() && self.queue.tail.is_empty()
    }

    /// `count` bytes of [`QueueMachine::transmit`] were sent.
    pub(super) fn sent(&mut self, count: usize) {
        let of_tail = self.connection.sent(count);
        self.queue.tail = &self.queue.tail[of_tail..];
    }

    fn encode_batch(&mut self, now: Instant) -> Result<(), DisconnectReason> {
        while self.queue.tail.is_empty()
            && !self.connection.batch_is_full()
            && self.encode_next(now)?
        {}
        Ok(())
    }

    /// Encodes the oldest request that is not yet encoded, or splits one off a call; false when
    /// there is nothing to send, or no room in the window.
    fn encode_next(&mut self, now: Instant) -> Result<bool, DisconnectReason> {
        if self.connection.session.to_encode().is_none() && !self.split_next() {
            return Ok(false);
        }
        let Some(sent) = self.connection.session.to_encode() else {
            return Ok(false);
        };
        let id = sent.id;
        let call = &mut self.queue.calls[place(sent.call, self.queue.first)];
        call.note_sent(now);
        let request = call.request(sent.position, sent.length, self.shared.layout.share_size());
        let request = request.map_err(|refusal| DisconnectReason::Fatal(self.refused(refusal)))?;
        self.queue.tail = self.connection.encode(id, request);
        Ok(true)
    }

    fn split_next(&mut self) -> bool {
        while let Some(call) = self
            .queue
            .calls
            .get_mut(place(self.queue.next_to_split, self.queue.first))
        {
            let Some(length) = call.next_length() else {
                self.queue.next_to_split += 1;
                continue;
            };
            if !self.connection.session.has_room(length) {
                return false;
            }
            let Some((position, length)) = call.split() else {
                return false;
            };
            self.connection
                .session
                .add(call.opcode(), self.queue.next_to_split, position, length);
            return true;
        }
        false
    }

    /// The connection, and the call with this number.
    pub(super) fn connection_and_call(
        &mut self,
        number: u64,
    ) -> (&mut ServerConnection, &mut Call<'a>) {
        (
            self.connection,
            &mut self.queue.calls[place(number, self.queue.first)],
        )
    }

    /// Counts the call as finished if every part has its outcome; to be called after each part.
    pub(super) fn complete(&mut self, number: u64) {
        if self.queue.call(number).is_finished() {
            self.queue.unfinished -= 1;
        }
    }

    /// Replaces the connection by one that is not open and has no session.
    pub(super) fn reset(&mut self, now: Instant) {
        *self.connection = self.shared.new_connection(self.server(), now);
    }
}

/// The place of a call in a queue whose first call has the number `first`.
#[allow(clippy::cast_possible_truncation)] // the queue is in memory
fn place(number: u64, first: u64) -> usize {
    (number - first) as usize
}
