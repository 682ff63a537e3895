//! A connection: bytes in, requests executed, replies out. The same code serves a thread of its
//! own, whose calls block, and a thread that many connections share, whose calls do not.

mod batch;
mod held_memory;
mod direct_receive;
mod polling;
mod receive;

use super::buffer::Buffer;
use super::context::{Context, ConnectionPermit};
use super::request_handler::{RequestHandler, Executor, refuse, superseded};
use super::holders::is_ready;
use batch::Batch;
use dsm_core::protocol::{Code, Opcode, Refusal, RequestHeader, split_request};
use held_memory::HeldMemory;
use direct_receive::DirectReceive;
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, send};
use polling::Polling;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Receives, and batches, of one connection before its thread looks for what else there is to do.
const MAX_ROUNDS: u32 = 16;

/// How long a connection is served before others on the same thread get their turn; a batch that
/// was begun, which is bounded too, is ended.
const MAX_TURN: Duration = Duration::from_micros(250);

/// How long a refused client has to take the refusal, before the connection is closed under it.
const LINGER: Duration = Duration::from_secs(1);

/// A blocked call returns at least this often, to look at deadlines. They are kept to this
/// precision.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// Whether calls on the socket wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// They wait, at most [`TICK`].
    Blocking,
    /// They return at once.
    Shared,
}

impl Mode {
    fn flags(self) -> MsgFlags {
        match self {
            Self::Blocking => MsgFlags::MSG_NOSIGNAL,
            Self::Shared => MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
        }
    }
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextStep {
    /// Bytes from the client.
    Read,
    /// Room for bytes to the client.
    Write,
    /// Nothing: it has work, but others wait too.
    Again,
    /// The end of a snapshot's freeze. Only in [`Mode::Shared`], where others wait too, who read.
    Unfrozen,
    /// Its end.
    Close,
}

/// Where the connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectionPhase {
    /// Requests are served.
    Open,
    /// The last reply is on its way; no more requests are read.
    Ending,
    /// All is said; what still comes is thrown away, so that closing does not destroy the last
    /// reply under way.
    Discarding,
}

/// A client's connection.
pub(super) struct Connection {
    socket: Arc<TcpStream>,
    handler: RequestHandler,
    input: Buffer,
    direct_receive: DirectReceive,
    output: Buffer,
    phase: ConnectionPhase,
    /// When the client must have finished what it began to send: hello, or a request.
    input_deadline: Option<Instant>,
    /// When it must have taken what is sent to it.
    output_deadline: Option<Instant>,
    held: HeldMemory,
    polling: Polling,
    /// The last receive took all that had come.
    drained: bool,
    /// Something has come in this turn.
    has_received: bool,
    /// Requests answered in `output`, and since when the oldest of them is known.
    answered: u64,
    batch_began: Instant,
    /// `None` for one that is only refused. Dropped last: it holds the other reference to the
    /// socket, and so closes it.
    permit: Option<ConnectionPermit>,
}

impl Connection {
    /// A connection that is to be served.
    pub(super) fn new(
        context: &Arc<Context>,
        socket: Arc<TcpStream>,
        peer: SocketAddr,
        permit: ConnectionPermit,
    ) -> Self {
        let mut connection = Self::with(context, socket, peer, Some(permit));
        connection.input_deadline = Some(Instant::now() + context.limits.hello_timeout());
        connection
    }

    /// A connection over the limit: it is told so and closed.
    pub(super) fn refused(
        context: &Arc<Context>,
        socket: Arc<TcpStream>,
        peer: SocketAddr,
        refusal: &Refusal,
    ) -> Self {
        let mut connection = Self::with(context, socket, peer, None);
        connection.end_with(refusal);
        connection
    }

    fn with(
        context: &Arc<Context>,
        socket: Arc<TcpStream>,
        peer: SocketAddr,
        permit: Option<ConnectionPermit>,
    ) -> Self {
        let address = peer.ip().to_canonical();
        let buffer = || Buffer::new(Arc::clone(&context.budget), address);
        Self {
            handler: RequestHandler::new(Arc::clone(context), peer),
            socket,
            input: buffer(),
            direct_receive: DirectReceive::default(),
            output: buffer(),
            phase: ConnectionPhase::Open,
            input_deadline: None,
            output_deadline: None,
            held: HeldMemory::new(&context.budget, address),
            polling: Polling::default(),
            drained: false,
            has_received: false,
            answered: 0,
            batch_began: Instant::now(),
            permit,
        }
    }

    /// The socket, to wait for it.
    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Whether it is one that is to be served, and not only refused.
    pub(super) fn is_served(&self) -> bool {
        self.permit.is_some()
    }

    /// Serves the client until it has to wait, or the turn is over.
    pub(super) fn drive(&mut self, executor: &mut Executor, mode: Mode) -> NextStep {
        if self.regain(executor).is_err() {
            return NextStep::Close;
        }
        self.has_received = false;
        self.input.borrow(&mut executor.spare_input);
        self.output.borrow(&mut executor.spare_output);
        let next = self.serve(executor, mode);
        self.input.give_back(&mut executor.spare_input);
        self.output.give_back(&mut executor.spare_output);
        self.hold(next);
        next
    }

    fn serve(&mut self, executor: &mut Executor, mode: Mode) -> NextStep {
        let began = Instant::now();
        let is_over = || mode == Mode::Shared && began.elapsed() >= MAX_TURN;
        for _ in 0..MAX_ROUNDS {
            if self.phase == ConnectionPhase::Discarding {
                return self.discard(mode);
            }
            let batch = if self.phase == ConnectionPhase::Open {
                self.execute_batch(executor, mode)
            } else {
                Batch::Done
            };
            if let Err(next) = self.flush(executor, mode) {
                return next;
            }
            if self.phase == ConnectionPhase::Ending {
                self.begin_discarding();
                continue;
            }
            match batch {
                Batch::Done => {}
                Batch::Full if is_over() => return NextStep::Again,
                Batch::Full => continue,
                Batch::Frozen => return NextStep::Unfrozen,
            }
            // A receive that left room took all there was; epoll tells when there is more, and
            // saves a call. At least one is made: a turn in which nothing but room is made for it
            // would be followed by another such turn.
            if mode == Mode::Shared && std::mem::take(&mut self.drained)
                || self.has_received && is_over()
            {
                self.shrink_if_idle();
                return NextStep::Read;
            }
            match self.receive(executor, mode) {
                Ok(0) => return NextStep::Close,
                Ok(_) => {
                    self.batch_began = Instant::now();
                    // All replies before have been sent.
                    self.handler.more_has_come();
                }
                Err(Errno::EAGAIN) => {
                    self.shrink_if_idle();
                    return NextStep::Read;
                }
                Err(Errno::EINTR) => {}
                Err(_) => return NextStep::Close,
            }
        }
        NextStep::Again
    }

    /// To be called at least every [`TICK`] while the connection waits. `Some` when a deadline has
    /// passed: whether to drive it again or to close it.
    pub(super) fn expire(&mut self, executor: &Executor, now: Instant) -> Option<NextStep> {
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| now >= deadline);
        // Where the client has done its part, its thread has yet to come round to it, and looks at
        // the deadline again.
        let is_untaken = passed(self.output_deadline)
            && (self.phase == ConnectionPhase::Discarding || !is_ready(&self.socket, PollFlags::POLLOUT));
        let is_late = self.phase == ConnectionPhase::Open
            && passed(self.input_deadline)
            && !is_ready(&self.socket, PollFlags::POLLIN);
        if is_untaken && self.expect_output_taken(executor).is_err() {
            return Some(NextStep::Close);
        }
        // A client that lost its connection without a word comes back on another, and leaves this
        // one behind.
        let is_superseded = self.phase == ConnectionPhase::Open && self.handler.is_superseded();
        if is_late || is_superseded {
            if self.regain(executor).is_err() {
                return Some(NextStep::Close);
            }
            if is_late {
                self.refuse_as_too_slow(executor);
            } else {
                self.refuse(executor, &superseded());
            }
            return Some(NextStep::Again);
        }
        // The budget may have become short since the connection fell silent.
        let next = if self.output.is_empty() {
            NextStep::Read
        } else {
            NextStep::Write
        };
        self.fit(executor, next).is_err().then_some(NextStep::Close)
    }

    fn refuse_as_too_slow(&mut self, executor: &Executor) {
        let message = if self.handler.is_open() {
            "a request was begun and not finished within limits.request_timeout"
        } else {
            "no hello came within limits.hello_timeout"
        };
        let refusal = Refusal::new(Code::TooSlow, message);
        if executor.context.log_gate.opens() {
            let peer = self.handler.peer();
            log::info!(DSM_SERVER = executor.context.index, DSM_CLIENT:% = peer; "closed {peer}: {refusal}");
        }
        self.refuse(executor, &refusal);
    }

    /// Another program than a client may never show the refusal that it is sent: the log says who
    /// is at the wrong port.
    fn log_no_frame(&self, executor: &Executor, refusal: &Refusal) {
        if executor.context.log_gate.opens() {
            let peer = self.handler.peer();
            log::warn!(DSM_SERVER = executor.context.index, DSM_CLIENT:% = peer; "refused {peer}: {refusal}");
        }
    }

    /// Ends the connection with a refusal that belongs to no request that could be executed.
    fn refuse(&mut self, executor: &Executor, refusal: &Refusal) {
        executor.counters().error();
        self.end_with(refusal);
    }

    fn end_with(&mut self, refusal: &Refusal) {
        let header = match split_request(self.input.as_slice()) {
            Ok(Some((header, _))) => header,
            _ => RequestHeader::new(Opcode::Hello, 0),
        };
        refuse(&mut self.output, &header, refusal);
        self.end();
        self.output_deadline = Some(Instant::now() + LINGER);
    }

    /// No more requests are read: those that have come need no memory any more.
    fn end(&mut self) {
        self.phase = ConnectionPhase::Ending;
        self.input.clear();
        self.direct_receive = DirectReceive::Off;
    }

    /// Sends all replies. `Err` says what to wait for when not all could be sent.
    fn flush(&mut self, executor: &Executor, mode: Mode) -> Result<(), NextStep> {
        while !self.output.is_empty() {
            match self.send(executor, mode)? {
                Ok(sent) if sent == self.output.len() => self.output.consume(sent),
                // A blocking send returns what went out within a tick: a slow reader must not keep
                // this loop for ever.
                Ok(sent) => {
                    self.output.consume(sent);
                    self.held.moved(sent);
                    self.expect_output_taken(executor)?;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.expect_output_taken(executor)?;
                    return Err(NextStep::Write);
                }
                Err(_) => return Err(NextStep::Close),
            }
        }
        if self.answered > 0 {
            executor
                .counters()
                .served(self.answered, self.batch_began.elapsed());
            self.answered = 0;
            self.output_deadline = None;
        }
        Ok(())
    }

    /// Sends what it can. While a client is waited for that is late already, its buffers may go to
    /// others.
    #[inline]
    fn send(&mut self, executor: &Executor, mode: Mode) -> Result<nix::Result<usize>, NextStep> {
        let is_late = mode == Mode::Blocking && self.output_deadline.is_some();
        if is_late {
            self.wait(PollFlags::POLLOUT);
        }
        let sent = send(
            self.socket.as_raw_fd(),
            self.output.as_slice(),
            mode.flags(),
        );
        if is_late {
            self.regain(executor)?;
        }
        Ok(sent)
    }

    /// The client has not taken all that was sent to it: it has until the deadline, which begins
    /// now if none runs.
    fn expect_output_taken(&mut self, executor: &Executor) -> Result<(), NextStep> {
        let now = Instant::now();
        let deadline = *self
            .output_deadline
            .get_or_insert_with(|| now + executor.context.limits.request_timeout());
        if now < deadline {
            return Ok(());
        }
        if self.phase == ConnectionPhase::Open && executor.context.log_gate.opens() {
            let peer = self.handler.peer();
            log::info!(
                DSM_SERVER = executor.context.index, DSM_CLIENT:% = peer;
                "closed {peer}: it did not take its replies within limits.request_timeout"
            );
        }
        // Whoever does not take replies would not take a refusal either.
        Err(NextStep::Close)
    }

    fn shrink_if_idle(&mut self) {
        self.input.shrink_if_idle();
        self.output.shrink_if_idle();
    }
}
