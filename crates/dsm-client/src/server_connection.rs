//! The state of a connection to one server, and of its session. The connection may break and be opened
//! again; the session stays. It has one owner at a time. No I/O.

use super::buffer::Input;
use super::session::Session;
use dsm_core::protocol::{HEADER, Payload, Request};
use dsm_core::segment::generation;
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

/// A payload up to this many bytes is copied next to its header; a longer one is sent from the
/// caller's memory.
const COPIED_PAYLOAD: usize = 2 << 10;

/// Bytes of headers and short payloads that one send gathers.
const BATCH: usize = 16 << 10;

/// How long an attempt to connect may last; it doubles with every failure up to the maximum. A
/// server that is just ending can lose the first packet of a connection, which the kernel sends
/// again only after a second: a new attempt finds the next server sooner.
const MIN_CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause after the first failed attempt; it doubles up to the longest.
const MIN_BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_millis(500);

/// The state of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is none; no attempt is made before this instant.
    Down(Instant),
    /// The server's name is being looked up.
    Resolving,
    /// It is being opened; the attempt ends at this instant.
    Connecting(Instant),
    /// Hello was sent and has no reply.
    Handshake,
    /// Requests can be sent.
    Ready,
}

/// See the module.
#[derive(Debug)]
pub(super) struct ServerConnection {
    pub(super) server: usize,
    /// The generation of the process that made it.
    generation: u64,
    pub(super) session: Session,
    /// Sessions to supersede first: hello is said for each, on a socket that is then closed. After
    /// the reply the server executes nothing more of the session.
    pub(super) to_supersede: Vec<[u8; 16]>,
    pub(super) phase: Phase,
    pub(super) input: Input,
    output: Vec<u8>,
    written: usize,
    /// Bytes of this connection's stream: encoded, and taken by the kernel.
    encoded_bytes: u64,
    pub(super) sent_bytes: u64,
    /// Attempts that failed since the last reply.
    failures: u32,
    /// Attempts to connect since the owner changed.
    pub(super) attempts: u32,
    /// An address of the server did not answer this attempt to connect.
    pub(super) is_unanswered: bool,
    /// Why the last connection failed.
    pub(super) reason: Option<String>,
}

impl ServerConnection {
    pub(super) fn new(server: usize, now: Instant) -> Self {
        Self {
            server,
            generation: generation(),
            session: Session::default(),
            to_supersede: Vec::new(),
            phase: Phase::Down(now),
            input: Input::new(),
            output: Vec::new(),
            written: 0,
            encoded_bytes: 0,
            sent_bytes: 0,
            failures: 0,
            attempts: 0,
            is_unanswered: false,
            reason: None,
        }
    }

    /// Whether this process made it, and not the one of which this is a child by `fork(2)`.
    pub(super) fn is_own(&self) -> bool {
        self.generation == generation()
    }

    /// Whether the pool can keep it for the next owner.
    pub(super) fn is_clean(&self) -> bool {
        self.phase == Phase::Ready
            && self.session.is_idle()
            && self.input.is_empty()
            && self.is_flushed()
    }

    /// The instant at which the machine is to be asked for its demand even if nothing happens before.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Down(until) | Phase::Connecting(until) => Some(until),
            Phase::Resolving | Phase::Handshake | Phase::Ready => None,
        }
    }

    /// A new attempt to connect begins, with a look-up of the server's name.
    pub(super) fn attempt(&mut self) {
        self.attempts += 1;
        self.is_unanswered = false;
        self.phase = Phase::Resolving;
    }

    /// The attempt tries an address of the server.
    pub(super) fn connecting(&mut self, now: Instant) {
        let timeout = MIN_CONNECT_TIMEOUT
            .saturating_mul(1 << self.failures.min(16))
            .min(MAX_CONNECT_TIMEOUT);
        self.phase = Phase::Connecting(now + timeout);
    }

    /// Notes that the address of this attempt does not answer.
    pub(super) fn unanswered(&mut self, reason: &str) {
        self.is_unanswered = true;
        self.reason = Some(reason.to_owned());
    }

    /// The connection is established; hello comes first.
    pub(super) fn established(&mut self) {
        self.phase = Phase::Handshake;
        self.is_unanswered = false;
    }

    /// Ends the connection; what has no reply is to be sent again. The next attempt comes at once
    /// after the first break since a reply, and else after a pause that grows and has a random
    /// part, so that many clients do not connect in step.
    pub(super) fn disconnect(&mut self, reason: String, now: Instant) {
        self.close();
        let pause = match self.failures {
            0 => Duration::ZERO,
            failures => MIN_BACKOFF
                .saturating_mul(1 << (failures - 1).min(16))
                .min(MAX_BACKOFF),
        };
        let mut random = [0; 1];
        // Without random numbers the pause has no random part.
        let _ = getrandom::fill(&mut random);
        self.phase = Phase::Down(now + pause / 2 + pause * u32::from(random[0]) / 512);
        self.failures = self.failures.saturating_add(1);
        self.reason = Some(reason);
    }

    /// Ends the connection; another one is to be opened at once.
    pub(super) fn reopen(&mut self, now: Instant) {
        self.close();
        self.phase = Phase::Down(now);
    }

    fn close(&mut self) {
        self.session.disconnected(self.sent_bytes);
        self.input.clear();
        self.output.clear();
        (self.written, self.encoded_bytes, self.sent_bytes) = (0, 0, 0);
    }

    /// Notes that a reply came, so that the next break is followed up at once.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.reason = None;
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.written == self.output.len()
    }

    pub(super) fn batch_is_full(&self) -> bool {
        self.output.len() >= BATCH
    }

    /// Appends a request's frame. A long payload is returned instead: it is to be sent next.
    pub(super) fn encode<'a>(&mut self, id: u64, request: Request<'a>) -> &'a [u8] {
        let (header, payload) = request.encode(id);
        self.output.extend_from_slice(header.as_bytes());
        let start = self.encoded_bytes;
        self.encoded_bytes += (HEADER + payload.as_ref().len()) as u64;
        let is_hello = matches!(request, Request::Hello(_));
        if !is_hello {
            self.session.encoded(start, self.encoded_bytes);
        }
        match payload {
            Payload::Bytes(bytes) if bytes.len() > COPIED_PAYLOAD && !is_hello => return bytes,
            payload => self.output.extend_from_slice(payload.as_ref()),
        }
        &[]
    }

    /// What was encoded and not sent.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.output[self.written..]
    }

    /// The kernel took `count` bytes of [`ServerConnection::unsent`] and of what follows it; returns
    /// how many of what follows.
    pub(super) fn sent(&mut self, count: usize) -> usize {
        self.sent_bytes += count as u64;
        let of_output = count.min(self.output.len() - self.written);
        self.written += of_output;
        if self.is_flushed() {
            self.output.clear();
            self.written = 0;
        }
        count - of_output
    }
}
