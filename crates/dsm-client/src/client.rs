//! The whole memory behind one object: each method splits its range into the pieces of the servers.

#[cfg(feature = "mcomp-cfg")]
use super::Config;
use super::Pipeline;
use super::blocking_call;
use super::call::{Call, CallKind, CallOutput};
use super::error::Error;
use super::local::{self, DataPath};
use super::pool::ClientState;
use super::pump::CallTime;
use dsm_core::layout::{Layout, Piece};
use dsm_core::printable::{self, printable};
use dsm_core::protocol::Status;
use dsm_core::segment::Deadline;
use dsm_core::{LocalAccess, ServerIndex};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The deadline of each call unless the client is told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest timeout, a year, so that a deadline always fits the clock. A longer one is cut to
/// it.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// The most servers that are asked at the same time: each needs a socket, of which a process may
/// have 1024 as a rule.
const MAX_ASKED: usize = 256;

/// Access to the whole memory. It connects when it has to. Many threads may use it at once, by
/// reference, in an `Arc` or as clones, which share connections.
///
/// A client reads or changes a range inside one server, up to
/// [`MAX_ATOMIC`](crate::layout::MAX_ATOMIC) bytes long, in one indivisible step. A longer range,
/// or one over several servers, is a set of such steps. Servers work in parallel; the steps of one
/// server come one after the other.
///
/// Each call has a deadline. Until then the client connects again when a connection breaks or a
/// server restarts, with pauses that grow, and sends again what has no reply; each change still
/// takes effect once. A change that has no reply at the deadline ends with
/// [`ErrorKind::OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown). The next call to the same
/// server, by this client or a clone of it, first makes sure that dsmd executes nothing of that
/// change any more: what that call reads is final. A request of a pipeline that still awaits
/// replies of that server does not wait for it, nor does a child of `fork(2)`. The
/// deadline holds also while the system looks up a host name of the network map.
///
/// The client uses the shared memory of a server on this host where it can (see [`LocalAccess`] and
/// [`Client::data_path`]), with the same promises, and as a rule without a system call. A change
/// waits there for other changes of the same pages, and for the freeze of a snapshot. At the
/// deadline the error is [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable): the part of
/// the call that waited changes nothing, while parts before it may be done, which
/// [`Error::effect`] says.
///
/// ```
/// use dsm_client::{Client, ErrorKind, Layout};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let servers = vec!["10.0.0.1:7411".into(), "10.0.0.2:7411".into()];
/// let client = Client::with_layout(Layout::new("dsm", 64 << 20, servers)?);
/// assert_eq!(client.size(), 128 << 20);
/// assert_eq!(client.read(128 << 20, 1).unwrap_err().kind(), ErrorKind::OutsideMemory);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) shared: Arc<ClientState>,
    timeout: Duration,
    local: LocalAccess,
}

const _: fn() = || {
    fn check<T: Send + Sync>() {}
    check::<Client>();
};

impl Client {
    /// A client of the memory that mcomp.cfg describes, with the settings that it gives. Connects
    /// lazily.
    #[cfg(feature = "mcomp-cfg")]
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let client = Self::with_layout(config.layout.clone());
        client
            .with_timeout(config.client.timeout)
            .with_local(config.client.local)
    }

    /// A client of the memory with this layout, with a timeout of 5 s and [`LocalAccess::Auto`].
    /// Connects lazily.
    #[must_use]
    pub fn with_layout(layout: Layout) -> Self {
        Self {
            shared: Arc::new(ClientState::new(layout)),
            timeout: DEFAULT_TIMEOUT,
            local: LocalAccess::Auto,
        }
    }

    /// The same client with another deadline for each call, of a year at most. It shares
    /// connections with the clones it had before.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(MAX_TIMEOUT);
        self
    }

    /// The same client with another choice for servers on this host. It shares connections with the
    /// clones it had before.
    #[must_use]
    pub fn with_local(mut self, local: LocalAccess) -> Self {
        self.local = local;
        self
    }

    /// The same client with connections that it shares only with its later clones. It still knows the
    /// same memory: what one of them has seen of a server, the other expects there, too.
    #[must_use]
    pub fn with_own_connections(mut self) -> Self {
        self.shared = Arc::new(self.shared.without_connections());
        self
    }

    /// The deadline of each call.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether it uses the shared memory of servers on this host. [`Client::data_path`] says
    /// whether it does so for one server now.
    #[must_use]
    pub fn local(&self) -> LocalAccess {
        self.local
    }

    /// The layout of the memory.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.shared.layout
    }

    /// Bytes of the whole memory.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.shared.layout.size()
    }

    /// A pipeline: many requests submitted at once, collected in order. It uses connections that no
    /// call shares with it.
    #[must_use]
    pub fn pipeline<'a>(&self) -> Pipeline<'a> {
        Pipeline::new(&self.shared, self.timeout, self.local)
    }

    /// The state and counters of a server. Where the server's machine says that no server is there,
    /// this fails at once; where nothing answers, it tries again until the deadline.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchServer`](crate::ErrorKind::NoSuchServer), or what went wrong at the
    /// server.
    pub fn status(&self, server: impl Into<ServerIndex>) -> Result<Status, Error> {
        let server = server.into().get();
        let text = self.ask(server, || CallKind::Status(Vec::new()))?;
        self.parse_status(server, text)
    }

    /// The state and counters of every server, by index. The servers are asked at the same time:
    /// one that fails costs the others no time. Of more than 256 servers, groups of 256 share the
    /// timeout.
    #[must_use]
    pub fn status_of_all(&self) -> Vec<Result<Status, Error>> {
        let count = self.shared.layout.server_count();
        let (parts, end) = ((0..count).step_by(MAX_ASKED), self.deadline());
        let ask_part = |first: usize| {
            let part = first..(first + MAX_ASKED).min(count);
            let groups = u32::try_from((count - first).div_ceil(MAX_ASKED)).unwrap_or(u32::MAX);
            let now = Instant::now();
            let time = self.call_time(Some(now + end.saturating_duration_since(now) / groups));
            let kind = || CallKind::Status(Vec::new());
            let answers = blocking_call::ask(&self.shared, part.clone(), kind, time);
            part.zip(answers)
        };
        parts
            .flat_map(ask_part)
            .map(|(server, answer)| self.parse_status(server, answer?))
            .collect()
    }

    fn parse_status(&self, server: usize, output: CallOutput) -> Result<Status, Error> {
        let CallOutput::Data(text) = output else {
            return Err(self.unexpected(server, &output));
        };
        serde_json::from_slice(&text).map_err(|error| {
            // serde_json quotes the text that it does not understand.
            let error = error.to_string();
            let error = printable(&error, printable::MAX_LOG_TEXT);
            self.shared
                .name(server)
                .protocol(format!("its status is not understood: {error}"))
        })
    }

    /// Sends a server a few bytes and takes them back; returns the time of the round trip, without
    /// that of connecting. It tries as often as [`Client::status`].
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchServer`](crate::ErrorKind::NoSuchServer), or what went wrong at the
    /// server.
    pub fn ping(&self, server: impl Into<ServerIndex>) -> Result<Duration, Error> {
        let server = server.into().get();
        match self.ask(server, || CallKind::Ping(None, [0; 8]))? {
            CallOutput::RoundTrip(time) => Ok(time),
            value => Err(self.unexpected(server, &value)),
        }
    }

    /// Accepts the memory that the server has now, after
    /// [`ErrorKind::MemoryLost`](crate::ErrorKind::MemoryLost): the client forgets the incarnation
    /// that it knew. Does nothing when there is no such server.
    pub fn accept_memory_loss(&self, server: impl Into<ServerIndex>) {
        self.shared.forget_incarnation(server.into().get());
    }

    /// The path that requests to a server take now. This connects to no server, but opens the
    /// shared memory if it can.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchServer`](crate::ErrorKind::NoSuchServer).
    pub fn data_path(&self, server: impl Into<ServerIndex>) -> Result<DataPath, Error> {
        let server = server.into().get();
        self.shared.check_server(server)?;
        let is_local = self.local == LocalAccess::Auto && self.shared.is_local(server);
        Ok(if is_local {
            DataPath::Local
        } else {
            DataPath::Tcp
        })
    }

    /// The piece of a range that is inside one server.
    pub(super) fn only_piece(&self, address: u64, length: u64) -> Result<Option<Piece>, Error> {
        let first = self.shared.pieces(address, length)?.next();
        Ok(first.filter(|piece| piece.length == length))
    }

    /// Carries out work inside one server: in its shared memory if that is open, and what is left
    /// by TCP; until the deadline, or the client's timeout if there is none.
    pub(super) fn part(
        &self,
        piece: Piece,
        kind: CallKind<'_>,
        mut deadline: Option<Instant>,
    ) -> Result<CallOutput, Error> {
        let mut call = Call::new(kind, piece.offset, piece.length);
        if self.local == LocalAccess::Auto {
            let timeout = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => self.timeout,
            };
            let begun = local::execute(
                &self.shared,
                piece.server,
                &mut call,
                local::nanoseconds(timeout),
            );
            if call.is_finished() {
                return call.outcome();
            }
            deadline = deadline.or_else(|| begun.map(Deadline::instant));
        }
        let time = self.call_time(deadline);
        blocking_call::carry_out(&self.shared, piece.server, call, time)
    }

    fn ask(
        &self,
        server: usize,
        kind: impl Fn() -> CallKind<'static>,
    ) -> Result<CallOutput, Error> {
        self.shared.check_server(server)?;
        let time = self.call_time(None);
        blocking_call::ask(&self.shared, server..server + 1, kind, time)
            .next()
            .unwrap_or(Ok(CallOutput::Done))
    }

    fn call_time(&self, deadline: Option<Instant>) -> CallTime {
        let now = Instant::now();
        CallTime {
            now,
            deadline: deadline.unwrap_or(now + self.timeout),
            timeout: self.timeout,
        }
    }

    /// A blocking call that may concern several servers: a pipeline of one request.
    pub(super) fn call<'a>(
        &self,
        deadline: Instant,
        submit: impl FnOnce(&mut Pipeline<'a>) -> Result<(), Error>,
    ) -> Result<CallOutput, Error> {
        let mut pipeline = Pipeline::until(&self.shared, deadline, self.timeout, self.local);
        submit(&mut pipeline)?;
        pipeline.collect_next().unwrap_or(Ok(CallOutput::Done))
    }

    /// The error for an output that does not fit the request.
    pub(super) fn unexpected(&self, server: usize, value: &CallOutput) -> Error {
        self.shared
            .name(server)
            .protocol(format!("it answered with {value:?}"))
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }
}
