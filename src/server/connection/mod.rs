//! A connection: receives bytes, executes the requests in them and sends the replies.
//!
//! The same code serves a connection that has its own thread, where calls on the socket block, and
//! one that shares a thread through epoll, where they do not. Every step is bounded in requests,
//! bytes and time, so that one peer cannot keep a thread from the others.

mod batch;
mod deadlines;
mod deferral;
mod direct_receive;
mod ending;
mod held_memory;
mod polling;
mod receive;
mod send;

use super::buffer::Buffer;
use super::context::{Context, RegisteredSocket};
use super::executor::Executor;
use super::request_handler::RequestHandler;
use batch::Batch;
use deadlines::Deadlines;
use deferral::Deferral;
use direct_receive::DirectReceive;
use dsm_core::net::{MsgFlags, Stream};
use dsm_core::protocol::Refusal;
use held_memory::HeldMemory;
use nix::errno::Errno;
use polling::Polling;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Receives and batches of one `drive`, before the thread turns to its other connections.
const MAX_ROUNDS: u32 = 16;

/// The longest that a shared thread serves one connection before the others. A batch that has begun
/// is finished, and is bounded too.
const MAX_TURN: Duration = Duration::from_micros(250);

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
    deadlines: Deadlines,
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
        connection.deadlines.input = Some(Instant::now() + context.limits.hello_timeout());
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
            deadlines: Deadlines::default(),
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

    fn shrink_if_idle(&mut self) {
        self.input.shrink_if_idle();
        self.output.shrink_if_idle();
    }
}
