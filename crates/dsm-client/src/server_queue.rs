//! The calls for one server in order, and the connection that carries them. It never blocks.

use super::Error;
use super::call::{Call, CallOutput};
use super::pool::PooledConnection;
use super::retry::{DisconnectReason, NO_ANSWER, SILENT_MACHINE};
use super::server_connection::{Phase, ServerConnection};
use dsm_core::protocol::{HelloRequest, Request, WINDOW};
use nix::poll::PollFlags;
use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
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

/// See the module.
#[derive(Debug)]
pub(super) struct ServerQueue<'a> {
    pub(super) connection: PooledConnection,
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
    /// What the last poll told about the socket.
    pub(super) ready: Cell<PollFlags>,
}

impl<'a> ServerQueue<'a> {
    pub(super) fn new(connection: PooledConnection) -> Self {
        Self {
            connection,
            calls: VecDeque::new(),
            first: 0,
            next_to_split: 0,
            unfinished: 0,
            tail: &[],
            body: None,
            until_answered: false,
            ready: Cell::new(PollFlags::empty()),
        }
    }

    pub(super) fn server(&self) -> usize {
        self.connection.server
    }

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

    /// Sends at once if no reply is awaited, and else when there are enough calls for a batch.
    pub(super) fn maybe_send(&mut self, now: Instant) {
        let waiting = self.first + self.calls.len() as u64 - self.next_to_split;
        if self.connection.session.is_idle() || waiting >= MIN_BATCH {
            self.drive(now);
        }
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

    /// Does what the socket allows; opens one when there is none and the pause is over.
    pub(super) fn drive(&mut self, now: Instant) {
        let ready = self.ready.replace(PollFlags::empty());
        if let Err(reason) = self.step(now, ready) {
            self.recover(reason, now);
        }
    }

    /// Whether it has sent what it can, and waits for bytes of an established connection alone.
    pub(super) fn waits_for_bytes(&self) -> bool {
        matches!(self.connection.phase, Phase::Handshake | Phase::Ready) && !self.connection.blocked
    }

    /// Waits for bytes, for [`RECEIVE_WAIT`](super::server_connection::RECEIVE_WAIT) at most, and
    /// takes them in; to be called if [`ServerQueue::waits_for_bytes`]. Returns whether there were
    /// any, or the connection ended.
    pub(super) fn wait_for_reply(&mut self) -> bool {
        self.wait_and_receive().unwrap_or_else(|reason| {
            self.recover(reason, Instant::now());
            true
        })
    }

    fn step(&mut self, now: Instant, ready: PollFlags) -> Result<(), DisconnectReason> {
        let ended = PollFlags::POLLERR | PollFlags::POLLHUP;
        match self.connection.phase {
            Phase::Down(until) if now < until => {}
            Phase::Down(_) => {
                let address = self.connection.shared.layout.addresses()[self.server()].clone();
                self.connection
                    .connect(&address, now)
                    .map_err(DisconnectReason::Broken)?;
            }
            Phase::Resolving => self
                .connection
                .continue_resolving(now)
                .map_err(DisconnectReason::Broken)?,
            Phase::Connecting(_) if ready.intersects(PollFlags::POLLOUT | ended) => {
                self.connection
                    .finish_connecting(now)
                    .map_err(DisconnectReason::Broken)?;
                if self.connection.phase == Phase::Handshake {
                    self.say_hello()?;
                    self.send()?;
                }
            }
            Phase::Connecting(until) if now < until => {}
            Phase::Connecting(_) => {
                self.connection.unanswered(NO_ANSWER);
                self.connection
                    .try_next(now)
                    .map_err(DisconnectReason::Broken)?;
            }
            Phase::Handshake | Phase::Ready => {
                if ready.intersects(PollFlags::POLLIN | ended) {
                    self.receive()?;
                }
                if !self.connection.blocked || ready.contains(PollFlags::POLLOUT) {
                    self.send()?;
                }
            }
        }
        Ok(())
    }

    /// Ends the connection if the server's machine does not answer any more, as for an attempt to
    /// connect without an answer.
    pub(super) fn break_if_mute(&mut self, now: Instant) {
        if self.connection.is_mute() {
            self.connection.unanswered(SILENT_MACHINE);
            self.recover(DisconnectReason::Broken(SILENT_MACHINE.into()), now);
        }
    }

    fn say_hello(&mut self) -> Result<(), DisconnectReason> {
        let known = self.connection.shared.known_incarnation(self.server());
        while let Some(id) = self.connection.to_supersede.last().copied() {
            if self.connection.shared.is_abandoned(self.server(), id) {
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
        let payload = [
            hello.as_bytes(),
            self.connection.shared.canonical.as_bytes(),
        ]
        .concat();
        self.connection.encode(0, Request::Hello(&payload));
    }

    /// Sends until everything is sent, the window is full, or the kernel takes no more.
    fn send(&mut self) -> Result<(), DisconnectReason> {
        loop {
            if self.connection.is_flushed() && self.tail.is_empty() {
                if self.connection.phase == Phase::Ready {
                    while self.tail.is_empty()
                        && !self.connection.batch_is_full()
                        && self.encode_next()?
                    {}
                }
                if self.connection.is_flushed() && self.tail.is_empty() {
                    return Ok(());
                }
            }
            match self.connection.write(self.tail) {
                Ok(taken) => {
                    self.tail = &self.tail[taken..];
                    self.connection.blocked = false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.connection.blocked = true;
                    return Ok(());
                }
                Err(error) => return Err(self.send_failed(&error)),
            }
        }
    }

    /// A server may refuse and close while requests are still being sent: its refusal may be there
    /// to read, and says more than the broken pipe.
    fn send_failed(&mut self, error: &io::Error) -> DisconnectReason {
        self.receive()
            .err()
            .unwrap_or_else(|| DisconnectReason::Broken(error.to_string()))
    }

    /// Encodes the oldest request that is not yet encoded, or splits one off a call; false when
    /// there is nothing to send, or no room in the window.
    fn encode_next(&mut self) -> Result<bool, DisconnectReason> {
        if self.connection.session.to_encode().is_none() && !self.split_next() {
            return Ok(false);
        }
        let Some(sent) = self.connection.session.to_encode() else {
            return Ok(false);
        };
        let id = sent.id;
        let call = &mut self.calls[place(sent.call, self.first)];
        call.note_sent();
        let request = call.request(
            sent.position,
            sent.length,
            self.connection.shared.layout.share_size(),
        );
        let request = request.map_err(|refusal| DisconnectReason::Fatal(self.refused(refusal)))?;
        self.tail = self.connection.encode(id, request);
        Ok(true)
    }

    fn split_next(&mut self) -> bool {
        while let Some(call) = self.calls.get_mut(place(self.next_to_split, self.first)) {
            let Some(length) = call.next_length() else {
                self.next_to_split += 1;
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
                .add(call.opcode(), self.next_to_split, position, length);
            return true;
        }
        false
    }

    /// The call with this number, which has parts without a reply.
    pub(super) fn call(&mut self, number: u64) -> &mut Call<'a> {
        &mut self.calls[place(number, self.first)]
    }

    /// The connection, and the call with this number.
    pub(super) fn connection_and_call(
        &mut self,
        number: u64,
    ) -> (&mut ServerConnection, &mut Call<'a>) {
        (
            &mut self.connection,
            &mut self.calls[place(number, self.first)],
        )
    }

    /// Counts the call as finished if every part has its outcome; to be called after each part.
    pub(super) fn complete(&mut self, number: u64) {
        if self.call(number).is_finished() {
            self.unfinished -= 1;
        }
    }

    /// The instant at which the queue is to be driven even if its socket is not ready.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        match self.connection.phase {
            Phase::Down(until) | Phase::Connecting(until) => Some(until),
            Phase::Resolving | Phase::Handshake | Phase::Ready => None,
        }
    }
}

/// The place of a call in a queue whose first call has the number `first`.
#[allow(clippy::cast_possible_truncation)] // the queue is in memory
fn place(number: u64, first: u64) -> usize {
    (number - first) as usize
}
