//! A connection: receives bytes, executes the requests in them and sends the replies.
//!
//! The same code serves a connection that has its own thread, where calls on the socket block, and
//! one that shares a thread through epoll, where they do not. Every step is bounded in requests,
//! bytes and time, so that one peer cannot keep a thread from the others.

mod batch;
mod deferral;
mod direct_receive;
mod held_memory;
mod polling;
mod receive;

use super::buffer::Buffer;
use super::context::{Context, RegisteredSocket};
use super::executor::Executor;
use super::reply::{refuse, superseded};
use super::request_handler::RequestHandler;
use batch::Batch;
use deferral::{Deferral, PART};
use direct_receive::DirectReceive;
use dsm_core::net::{MsgFlags, Stream};
use dsm_core::protocol::{Code, Opcode, Refusal, RequestHeader, split_request};
use held_memory::HeldMemory;
use nix::errno::Errno;
use nix::poll::PollFlags;
use polling::Polling;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Receives and batches of one `drive`, before the thread turns to its other connections.
const MAX_ROUNDS: u32 = 16;

/// The longest that a shared thread serves one connection before the others. A batch that has begun
/// is finished, and is bounded too.
const MAX_TURN: Duration = Duration::from_micros(250);

/// How long a refused client may take to read the refusal before the connection is closed.
const LINGER: Duration = Duration::from_secs(1);

/// A blocking call returns at least this often to check deadlines, which are kept to this
/// precision.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// Whether calls on the socket block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// They block, for at most [`TICK`].
    Blocking,
    /// They return immediately.
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

/// What must happen before the connection is driven again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextStep {
    /// The socket is readable.
    Read,
    /// The socket is writable.
    Write,
    /// Nothing: requests are left, but the connection has used up its turn.
    Again,
    /// A snapshot's freeze ends: the next request is parked in the input. Only in
    /// [`Mode::Shared`]: a thread of the connection's own waits itself.
    Unfrozen,
    /// Nothing: the connection must be closed.
    Close,
}

/// The life of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectionPhase {
    /// Requests are served.
    Open,
    /// The last reply is being sent, and no more requests are read.
    Ending,
    /// Input is read and discarded: closing the socket with unread input would reset the connection
    /// and destroy the last reply in flight.
    Discarding,
}

/// A client's connection.
pub(super) struct Connection {
    socket: Arc<Stream>,
    handler: RequestHandler,
    input: Buffer,
    direct_receive: DirectReceive,
    output: Buffer,
    phase: ConnectionPhase,
    /// When the client must have completed its hello, or the request that it began to send.
    input_deadline: Option<Instant>,
    /// When the client must have read the replies.
    output_deadline: Option<Instant>,
    held: HeldMemory,
    polling: Polling,
    /// The last receive emptied the socket.
    drained: bool,
    /// Bytes were received in this turn.
    has_received: bool,
    /// The last step was [`NextStep::Unfrozen`].
    is_parked: bool,
    deferral: Deferral,
    /// Requests whose replies are in `output`, and when the oldest of them was received.
    answered: u64,
    batch_began: Instant,
    /// `None` for a connection that is only refused. Declared last, so that it is dropped last: it
    /// holds the other reference to the socket and so closes it.
    registered: Option<RegisteredSocket>,
}

impl Connection {
    /// A connection to serve.
    pub(super) fn new(
        context: &Arc<Context>,
        socket: Arc<Stream>,
        peer: SocketAddr,
        registered: RegisteredSocket,
    ) -> Self {
        let mut connection = Self::with(context, socket, peer, Some(registered));
        connection.input_deadline = Some(Instant::now() + context.limits.hello_timeout());
        connection
    }

    /// A connection beyond limits.connections: it gets the refusal and is closed.
    pub(super) fn refused(
        context: &Arc<Context>,
        socket: Arc<Stream>,
        peer: SocketAddr,
        refusal: &Refusal,
    ) -> Self {
        let mut connection = Self::with(context, socket, peer, None);
        connection.end_with(refusal);
        connection
    }

    fn with(
        context: &Arc<Context>,
        socket: Arc<Stream>,
        peer: SocketAddr,
        registered: Option<RegisteredSocket>,
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
            is_parked: false,
            deferral: Deferral::default(),
            answered: 0,
            batch_began: Instant::now(),
            registered,
        }
    }

    /// The socket, for epoll and timeouts.
    pub(super) fn socket(&self) -> &Stream {
        &self.socket
    }

    /// Whether the connection is served, not only refused.
    pub(super) fn is_served(&self) -> bool {
        self.registered.is_some()
    }

    /// Whether the next turn will probably be long, as one before was.
    pub(super) fn is_long(&self) -> bool {
        self.deferral.is_long()
    }

    /// Whether the next request waits for buffer memory.
    pub(super) fn is_starved(&self) -> bool {
        self.deferral.is_starved()
    }

    /// Whether replies are left to send.
    pub(super) fn is_sending(&self) -> bool {
        !self.output.is_empty()
    }

    /// Serves the client until it must wait or its turn is over.
    pub(super) fn drive(&mut self, executor: &mut Executor, mode: Mode) -> NextStep {
        if self.regain(executor).is_err() {
            return NextStep::Close;
        }
        self.has_received = false;
        self.deferral.begin_turn();
        self.input.borrow(&mut executor.spare_input);
        self.output.borrow(&mut executor.spare_output);
        let next = self.serve(executor, mode);
        self.input.give_back(&mut executor.spare_input);
        self.output.give_back(&mut executor.spare_output);
        self.is_parked = next == NextStep::Unfrozen;
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
            // The replies of the turn before come first: more of them would need more memory. Then
            // the turn ends, so that long requests of several connections take turns.
            let had_replies = !self.output.is_empty();
            let batch = if self.phase != ConnectionPhase::Open {
                Batch::Done
            } else if had_replies {
                Batch::Full
            } else {
                self.execute_batch(executor, mode)
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
                Batch::Full if had_replies || is_over() => {
                    self.deferral.set_long();
                    return NextStep::Again;
                }
                Batch::Full => continue,
                Batch::Deferred => return NextStep::Again,
                Batch::Parked if mode == Mode::Shared => return NextStep::Unfrozen,
                Batch::Parked => {
                    executor.context.segment.wait_while_frozen(TICK);
                    return NextStep::Again;
                }
            }
            // A receive that left room has emptied the socket: waiting for epoll saves a call. At
            // least one receive is made per turn: a turn that only makes room would be followed by
            // another such turn.
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
                    // `flush` has sent all replies before this.
                    self.handler.start_window();
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
    /// passed: whether to drive the connection again or to close it.
    pub(super) fn expire(&mut self, executor: &Executor, now: Instant) -> Option<NextStep> {
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| now >= deadline);
        // A socket that is ready means that the client was in time and the thread has not served it
        // yet; the thread checks the deadline again when it does.
        let is_untaken = passed(self.output_deadline)
            && (self.phase == ConnectionPhase::Discarding
                || !self.socket.is_ready(PollFlags::POLLOUT));
        let is_late = self.phase == ConnectionPhase::Open
            && passed(self.input_deadline)
            && !self.socket.is_ready(PollFlags::POLLIN);
        if is_untaken && self.expect_output_taken(executor).is_err() {
            return Some(NextStep::Close);
        }
        // A client whose connection broke without a FIN or RST reconnects and leaves this
        // connection behind.
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
        // Buffer memory may have become short since the connection became idle.
        let next = match self.output.is_empty() {
            _ if self.is_parked => NextStep::Unfrozen,
            true => NextStep::Read,
            false => NextStep::Write,
        };
        self.fit(executor, next).is_err().then_some(NextStep::Close)
    }

    fn refuse_as_too_slow(&mut self, executor: &Executor) {
        let message = if self.handler.is_open() {
            "a request was not complete within limits.request_timeout"
        } else {
            "no hello came within limits.hello_timeout"
        };
        let refusal = Refusal::new(Code::TooSlow, message);
        if executor.context.log_limit.allows() {
            let peer = self.handler.peer();
            log::info!(DSM_SERVER = executor.context.index, DSM_CLIENT:% = peer; "closed {peer}: {refusal}");
        }
        self.refuse(executor, &refusal);
    }

    /// A program that is no dsm client may never show the refusal, so the log names the peer that
    /// connects to the wrong port.
    fn log_no_frame(&self, executor: &Executor, refusal: &Refusal) {
        if executor.context.log_limit.allows() {
            let peer = self.handler.peer();
            log::warn!(DSM_SERVER = executor.context.index, DSM_CLIENT:% = peer; "refused {peer}: {refusal}");
        }
    }

    /// Ends the connection with a refusal that answers no executed request.
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

    /// Stops reading requests and frees the memory of those received.
    fn end(&mut self) {
        self.phase = ConnectionPhase::Ending;
        self.input.clear();
        self.direct_receive = DirectReceive::Off;
    }

    /// Sends all replies. `Err` says what to wait for when some are left.
    fn flush(&mut self, executor: &Executor, mode: Mode) -> Result<(), NextStep> {
        while !self.output.is_empty() {
            match self.send(executor, mode)? {
                Ok(sent) if sent == self.output.len() => self.output.consume(sent),
                // A blocking send returns after a tick with what was sent: without this check, a
                // slow reader would keep this loop forever.
                Ok(sent) => {
                    self.output.consume(sent);
                    self.held.moved(sent);
                    self.expect_output_taken(executor)?;
                    if mode == Mode::Shared && sent == PART {
                        self.deferral.set_long();
                        return Err(NextStep::Again);
                    }
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

    /// Sends what the socket takes. While the thread waits for a client that is already late, other
    /// connections may take its buffer memory.
    #[inline]
    fn send(&mut self, executor: &Executor, mode: Mode) -> Result<nix::Result<usize>, NextStep> {
        let is_late = mode == Mode::Blocking && self.output_deadline.is_some();
        if is_late {
            self.wait(PollFlags::POLLOUT);
        }
        let replies = self.output.as_slice();
        let part = match mode {
            Mode::Blocking => replies,
            Mode::Shared => &replies[..replies.len().min(PART)],
        };
        let sent = self.socket.send(part, mode.flags());
        if is_late {
            self.regain(executor)?;
        }
        Ok(sent)
    }

    /// The client has not read all replies. It has until the deadline, which starts now if none is
    /// running.
    fn expect_output_taken(&mut self, executor: &Executor) -> Result<(), NextStep> {
        let now = Instant::now();
        let deadline = *self
            .output_deadline
            .get_or_insert_with(|| now + executor.context.limits.request_timeout());
        if now < deadline {
            return Ok(());
        }
        if self.phase == ConnectionPhase::Open && executor.context.log_limit.allows() {
            let peer = self.handler.peer();
            log::info!(
                DSM_SERVER = executor.context.index, DSM_CLIENT:% = peer;
                "closed {peer}: it did not take its replies within limits.request_timeout"
            );
        }
        // A client that does not read its replies would not read a refusal either.
        Err(NextStep::Close)
    }

    fn shrink_if_idle(&mut self) {
        self.input.shrink_if_idle();
        self.output.shrink_if_idle();
    }
}
