//! A connection to one server under one session. The socket under it may break and be opened again;
//! the session stays. It has one owner at a time.

use super::buffer::Input;
use super::session::Session;
use dsm_core::net::{self, KeepAliveTimes, LookUp, MsgFlags, Resolution, Stream};
use dsm_core::protocol::{HEADER, Payload, Request};
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
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

/// How long the machine of a server may leave packets unanswered, or two probes, before the
/// connection is given up for another. A healthy machine answers also while dsmd is busy or stopped,
/// and in this time the kernel sends a lost packet again four times.
const MAX_SILENCE: Duration = Duration::from_secs(2);

/// The probes of the kernel to a machine that is silent: they tell one that is gone from one that
/// only has no reply yet.
const KEEP_ALIVE: KeepAliveTimes = KeepAliveTimes {
    idle: 1,
    interval: 1,
    probes: 3,
};

/// How long a receive that waits for its bytes does so at most.
pub(super) const RECEIVE_WAIT: Duration = Duration::from_millis(100);

/// Whether a receive waits for bytes that are not there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReceiveMode {
    /// It takes what is there.
    AtOnce,
    /// It waits for the first bytes, for [`RECEIVE_WAIT`] at most.
    Wait,
    /// It waits until the target is full, for [`RECEIVE_WAIT`] at most.
    Fill,
}

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
    pub(super) session: Session,
    /// Sessions to supersede first: hello is said for each, on a socket that is then closed. After
    /// the reply the server executes nothing more of the session.
    pub(super) to_supersede: Vec<[u8; 16]>,
    pub(super) phase: Phase,
    pub(super) input: Input,
    look_up: Option<LookUp>,
    stream: Option<Stream>,
    /// Addresses of the server that this attempt has not tried yet.
    candidates: std::vec::IntoIter<SocketAddr>,
    output: Vec<u8>,
    written: usize,
    /// Bytes of this connection's stream: encoded, and taken by the kernel.
    encoded_bytes: u64,
    pub(super) sent_bytes: u64,
    /// The kernel takes no more until the socket is writable.
    pub(super) blocked: bool,
    /// Attempts that failed since the last reply.
    failures: u32,
    /// Attempts to connect since the owner changed.
    pub(super) attempts: u32,
    /// An address of the server did not answer this attempt to connect.
    pub(super) is_unanswered: bool,
    /// Why the last connection failed.
    pub(super) reason: Option<String>,
    pub(super) idle_since: Instant,
    /// The thread that gave it to the pool; zero before.
    pub(super) last_user: usize,
}

impl ServerConnection {
    pub(super) fn new(server: usize, now: Instant) -> Self {
        Self {
            server,
            session: Session::default(),
            to_supersede: Vec::new(),
            phase: Phase::Down(now),
            input: Input::new(),
            look_up: None,
            stream: None,
            candidates: Vec::new().into_iter(),
            output: Vec::new(),
            written: 0,
            encoded_bytes: 0,
            sent_bytes: 0,
            blocked: false,
            failures: 0,
            attempts: 0,
            is_unanswered: false,
            reason: None,
            idle_since: now,
            last_user: 0,
        }
    }

    pub(super) fn stream(&self) -> Option<&Stream> {
        self.stream.as_ref()
    }

    /// The descriptor of what it waits for.
    pub(super) fn for_poll(&self) -> Option<BorrowedFd<'_>> {
        match self.phase {
            Phase::Resolving => self.look_up.as_ref().map(LookUp::for_poll),
            _ => self.stream.as_ref().map(Stream::for_poll),
        }
    }

    /// Whether the pool can keep it for the next owner.
    pub(super) fn is_clean(&self) -> bool {
        self.phase == Phase::Ready
            && self.session.is_idle()
            && self.input.is_empty()
            && self.is_flushed()
    }

    /// Begins a new attempt to connect.
    pub(super) fn connect(&mut self, address: &str, now: Instant) -> Result<(), String> {
        self.attempts += 1;
        self.is_unanswered = false;
        match net::resolve(address) {
            Resolution::Ready(found) => self.resolved(found, now),
            Resolution::Pending(look_up) => {
                self.look_up = Some(look_up);
                self.phase = Phase::Resolving;
                Ok(())
            }
        }
    }

    /// Continues the attempt if the look-up of the server's name has ended.
    pub(super) fn continue_resolving(&mut self, now: Instant) -> Result<(), String> {
        let Some(found) = self.look_up.as_ref().and_then(LookUp::answer) else {
            return Ok(());
        };
        self.look_up = None;
        self.resolved(found, now)
    }

    fn resolved(&mut self, found: io::Result<Vec<SocketAddr>>, now: Instant) -> Result<(), String> {
        let found = found.map_err(|error| format!("its name is not resolved: {error}"))?;
        if found.is_empty() {
            return Err("its name has no address".into());
        }
        self.candidates = found.into_iter();
        self.try_next(now)
    }

    /// Notes that the address of this attempt does not answer.
    pub(super) fn unanswered(&mut self, reason: &str) {
        self.is_unanswered = true;
        self.reason = Some(reason.to_owned());
    }

    /// Tries the server's next address; if there is none, returns the reason of the last failure.
    pub(super) fn try_next(&mut self, now: Instant) -> Result<(), String> {
        self.stream = None;
        for candidate in self.candidates.by_ref() {
            let timeout = MIN_CONNECT_TIMEOUT
                .saturating_mul(1 << self.failures.min(16))
                .min(MAX_CONNECT_TIMEOUT);
            let begun = net::begin_connect(candidate)
                .and_then(|stream| stream.set_keep_alive(KEEP_ALIVE).map(|()| stream));
            match begun {
                Ok(stream) => {
                    self.stream = Some(stream);
                    self.phase = Phase::Connecting(now + timeout);
                    return Ok(());
                }
                Err(error) => self.reason = Some(error.to_string()),
            }
        }
        Err(self
            .reason
            .clone()
            .unwrap_or_else(|| "no attempt to connect succeeded".into()))
    }

    /// The socket that was connecting is writable, or failed.
    pub(super) fn finish_connecting(&mut self, now: Instant) -> Result<(), String> {
        let finished = self
            .stream
            .as_ref()
            .map_or(Err(io::ErrorKind::NotConnected.into()), |stream| {
                net::finish_connect(stream).and_then(|()| make_blocking(stream))
            });
        if let Err(error) = finished {
            self.reason = Some(error.to_string());
            return self.try_next(now);
        }
        self.phase = Phase::Handshake;
        self.is_unanswered = false;
        Ok(())
    }

    /// Closes the connection; what has no reply is to be sent again. The next attempt comes at once
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

    /// Closes the socket, and opens another one at once.
    pub(super) fn reopen(&mut self, now: Instant) {
        self.close();
        self.phase = Phase::Down(now);
    }

    fn close(&mut self) {
        self.session.disconnected(self.sent_bytes);
        self.look_up = None;
        self.stream = None;
        self.input.clear();
        self.output.clear();
        (
            self.written,
            self.encoded_bytes,
            self.sent_bytes,
            self.blocked,
        ) = (0, 0, 0, false);
    }

    /// Notes that a reply came, so that the next break is followed up at once.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
        self.reason = None;
    }

    /// Whether the server has closed this idle connection, or sent bytes without a request.
    pub(super) fn is_stale(&self) -> bool {
        !self.stream.as_ref().is_some_and(Stream::is_quiet)
    }

    /// Whether the server's machine, or the network to it, has failed since the connection was
    /// established.
    pub(super) fn is_mute(&self) -> bool {
        matches!(self.phase, Phase::Handshake | Phase::Ready)
            && self
                .stream
                .as_ref()
                .is_some_and(|stream| stream.is_mute(MAX_SILENCE))
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

    /// Sends what was encoded, then `tail`; returns how many bytes of the tail were taken.
    pub(super) fn write(&mut self, tail: &[u8]) -> io::Result<usize> {
        let stream = self.stream.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let head = &self.output[self.written..];
        let sent = stream.send_both(head, tail, MsgFlags::MSG_DONTWAIT)?;
        self.sent_bytes += sent as u64;
        let of_head = sent.min(head.len());
        self.written += of_head;
        if self.is_flushed() {
            self.output.clear();
            self.written = 0;
        }
        Ok(sent - of_head)
    }

    /// Receives into `target` first and into the buffer what is left; returns the bytes for the
    /// target, and whether there may be more.
    pub(super) fn read(
        &mut self,
        target: &mut [u8],
        mode: ReceiveMode,
    ) -> io::Result<(usize, bool)> {
        let stream = self.stream.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let flags = match mode {
            ReceiveMode::AtOnce => MsgFlags::MSG_DONTWAIT,
            ReceiveMode::Wait => MsgFlags::empty(),
            ReceiveMode::Fill => MsgFlags::MSG_WAITALL,
        };
        let direct = target.len();
        // A receive that fills its target must not wait for what follows it.
        let space = match mode {
            ReceiveMode::Fill => &mut [],
            _ => self.input.space(),
        };
        let room = direct + space.len();
        let count = stream.receive_both(target, space, flags)?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it closed the connection",
            ));
        }
        let of_target = count.min(direct);
        self.input.received(count - of_target);
        Ok((of_target, count == room))
    }
}

/// Makes the calls of an established connection wait, unless they say otherwise: a receive that
/// waits by itself saves the system call that would wait before it.
fn make_blocking(stream: &Stream) -> io::Result<()> {
    stream.set_receive_timeout(RECEIVE_WAIT)?;
    stream.set_nonblocking(false)
}
