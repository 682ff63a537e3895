//! The whole memory behind one object: each method splits its range into the pieces of the servers.

#[cfg(feature = "mcomp-cfg")]
use super::Config;
use super::call::{Call, CallKind, CallOutput};
use super::copy::{self, Step};
use super::error::{Effect, Error};
use super::local::{self, DataPath};
use super::pool::ClientState;
use super::{CompareAndSwap, Pipeline};
use dsm_core::layout::{Layout, Piece};
use dsm_core::printable::{self, printable};
use dsm_core::protocol::{AtomicOperation, Status};
use dsm_core::segment::Deadline;
use dsm_core::{Address, LocalAccess, ServerIndex};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The deadline of each call unless the client is told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest timeout, a year, so that a deadline always fits the clock. A longer one is cut to
/// it.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// A read longer than this, in bytes, first makes sure that this process can have the memory: to
/// allocate it in vain would end the process.
const LARGE: u64 = 16 << 20;

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
    shared: Arc<ClientState>,
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

    /// Reads `length` bytes.
    ///
    /// # Errors
    /// [`ErrorKind::OutsideMemory`](crate::ErrorKind::OutsideMemory),
    /// [`ErrorKind::NoRoom`](crate::ErrorKind::NoRoom), or what went wrong at a server; see
    /// [`Error`].
    pub fn read(&self, address: impl Into<Address>, length: u64) -> Result<Vec<u8>, Error> {
        let address = address.into();
        // Before the allocation: the length may be anything.
        self.shared.pieces(address.get(), length).map(drop)?;
        let no_room = || Error::no_room(length);
        let bytes = usize::try_from(length).map_err(|_| no_room())?;
        if length > LARGE {
            Vec::<u8>::new()
                .try_reserve_exact(bytes)
                .map_err(|_| no_room())?;
        }
        let mut data = vec![0; bytes];
        self.read_into(address, &mut data)?;
        Ok(data)
    }

    /// Reads as many bytes as `buffer` has. After an error, the buffer's contents are unspecified.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub fn read_into(&self, address: impl Into<Address>, buffer: &mut [u8]) -> Result<(), Error> {
        let address = address.into().get();
        if let Some(piece) = self.only_piece(address, buffer.len() as u64)? {
            return self.part(piece, CallKind::ReadInto(buffer), None).map(drop);
        }
        self.call(self.deadline(), |pipeline| {
            pipeline.read_into(address, buffer)
        })
        .map(drop)
    }

    /// Writes `data`. When this returns, the bytes are in the server's shared memory and survive
    /// the death of dsmd.
    ///
    /// # Errors
    /// [`ErrorKind::OutsideMemory`](crate::ErrorKind::OutsideMemory), or what went wrong at a
    /// server; see [`Error`].
    pub fn write(&self, address: impl Into<Address>, data: &[u8]) -> Result<(), Error> {
        let address = address.into().get();
        if let Some(piece) = self.only_piece(address, data.len() as u64)? {
            return self.part(piece, CallKind::Write(data), None).map(drop);
        }
        self.call(self.deadline(), |pipeline| pipeline.write(address, data))
            .map(drop)
    }

    /// Sets `length` bytes to `byte`.
    ///
    /// # Errors
    /// As [`Client::write`].
    pub fn fill(&self, address: impl Into<Address>, length: u64, byte: u8) -> Result<(), Error> {
        let address = address.into().get();
        if let Some(piece) = self.only_piece(address, length)? {
            return self.part(piece, CallKind::Fill(byte), None).map(drop);
        }
        self.call(self.deadline(), |pipeline| {
            pipeline.fill(address, length, byte)
        })
        .map(drop)
    }

    /// Copies the bytes of `source` to the range of the same length that begins at `destination`;
    /// the ranges may overlap. Where both are on one server, the bytes stay there; else they come
    /// through this process.
    ///
    /// # Errors
    /// [`ErrorKind::OutsideMemory`](crate::ErrorKind::OutsideMemory), also for a source that ends
    /// before it begins, and as [`Client::write`]; parts of the copy may then be done.
    pub fn copy(&self, source: Range<u64>, destination: impl Into<Address>) -> Result<(), Error> {
        let (from, to) = (source.start, destination.into().get());
        let Some(length) = source.end.checked_sub(from) else {
            return Err(Error::reversed(&source));
        };
        self.shared.pieces(from, length).map(drop)?;
        self.shared.pieces(to, length).map(drop)?;
        if from == to {
            return Ok(());
        }
        let deadline = self.deadline();
        let backward = copy::is_backward(from, to, length);
        let mut carried = Vec::new();
        for (number, step) in copy::steps(&self.shared.layout, from, to, length).enumerate() {
            self.copy_step(&step, backward, &mut carried, deadline)
                .map_err(|error| match number {
                    0 => error,
                    // The steps before it changed the memory.
                    _ => error.with_effect(Effect::Possible),
                })?;
        }
        Ok(())
    }

    fn copy_step(
        &self,
        step: &Step,
        backward: bool,
        carried: &mut Vec<u8>,
        deadline: Instant,
    ) -> Result<(), Error> {
        if step.same_server
            && let Some(piece) = self.only_piece(step.to, step.length)?
        {
            let from = step.from % self.shared.layout.share_size();
            return self
                .part(piece, CallKind::Copy { from, backward }, Some(deadline))
                .map(drop);
        }
        // Such a step has at most 4 MiB.
        #[allow(clippy::cast_possible_truncation)]
        carried.resize(step.length as usize, 0);
        self.call(deadline, |pipeline| pipeline.read_into(step.from, carried))?;
        self.call(deadline, |pipeline| pipeline.write(step.to, carried))
            .map(drop)
    }

    /// Adds to the word at `address`, a multiple of eight, wrapping at 2^64; returns the old value.
    /// Words are little-endian.
    ///
    /// # Errors
    /// [`ErrorKind::Unaligned`](crate::ErrorKind::Unaligned), and as [`Client::write`].
    pub fn fetch_add(&self, address: impl Into<Address>, operand: u64) -> Result<u64, Error> {
        self.atomic(address.into().get(), AtomicOperation::Add(operand))
    }

    /// Replaces the word at `address`; returns the old value.
    ///
    /// # Errors
    /// As [`Client::fetch_add`].
    pub fn swap(&self, address: impl Into<Address>, new: u64) -> Result<u64, Error> {
        self.atomic(address.into().get(), AtomicOperation::Swap(new))
    }

    /// Replaces the word at `address` if it is `expected`; returns the old value. It was replaced
    /// if and only if that is `expected`.
    ///
    /// # Errors
    /// As [`Client::fetch_add`].
    pub fn compare_and_swap(
        &self,
        address: impl Into<Address>,
        words: CompareAndSwap,
    ) -> Result<u64, Error> {
        self.atomic(address.into().get(), words.operation())
    }

    /// Bitwise and on the word at `address`; returns the old value.
    ///
    /// # Errors
    /// As [`Client::fetch_add`].
    pub fn fetch_and(&self, address: impl Into<Address>, operand: u64) -> Result<u64, Error> {
        self.atomic(address.into().get(), AtomicOperation::And(operand))
    }

    /// Bitwise or on the word at `address`; returns the old value.
    ///
    /// # Errors
    /// As [`Client::fetch_add`].
    pub fn fetch_or(&self, address: impl Into<Address>, operand: u64) -> Result<u64, Error> {
        self.atomic(address.into().get(), AtomicOperation::Or(operand))
    }

    /// Bitwise exclusive or on the word at `address`; returns the old value.
    ///
    /// # Errors
    /// As [`Client::fetch_add`].
    pub fn fetch_xor(&self, address: impl Into<Address>, operand: u64) -> Result<u64, Error> {
        self.atomic(address.into().get(), AtomicOperation::Xor(operand))
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
        let text = match self.ask(server, CallKind::Status(Vec::new()))? {
            CallOutput::Data(text) => text,
            value => return Err(self.unexpected(server, &value)),
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
        match self.ask(server, CallKind::Ping(None, [0; 8]))? {
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

    fn atomic(&self, address: u64, operation: AtomicOperation) -> Result<u64, Error> {
        if !address.is_multiple_of(8) {
            return Err(Error::unaligned(address));
        }
        // k is a multiple of eight: an aligned word is on one server.
        let Some(piece) = self.only_piece(address, 8)? else {
            return Err(Error::unaligned(address));
        };
        match self.part(piece, CallKind::Atomic(operation), None)? {
            CallOutput::Old(old) => Ok(old),
            value => Err(self.unexpected(piece.server, &value)),
        }
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
    fn only_piece(&self, address: u64, length: u64) -> Result<Option<Piece>, Error> {
        let first = self.shared.pieces(address, length)?.next();
        Ok(first.filter(|piece| piece.length == length))
    }

    /// Carries out work inside one server: in its shared memory if that is open, and what is left
    /// by TCP; until the deadline, or the client's timeout if there is none.
    fn part<'a>(
        &self,
        piece: Piece,
        kind: CallKind<'a>,
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
        let deadline = deadline.unwrap_or_else(|| self.deadline());
        self.call(deadline, |pipeline: &mut Pipeline<'a>| {
            pipeline.submit_call(piece.server, call)
        })
    }

    fn ask(&self, server: usize, kind: CallKind<'_>) -> Result<CallOutput, Error> {
        let mut pipeline = Pipeline::until_answered(&self.shared, self.timeout);
        pipeline.submit_to(server, kind)?;
        pipeline.collect_next().unwrap_or(Ok(CallOutput::Done))
    }

    /// A blocking call: a pipeline of one request.
    fn call<'a>(
        &self,
        deadline: Instant,
        submit: impl FnOnce(&mut Pipeline<'a>) -> Result<(), Error>,
    ) -> Result<CallOutput, Error> {
        let mut pipeline = Pipeline::until(&self.shared, deadline, self.timeout, self.local);
        submit(&mut pipeline)?;
        pipeline.collect_next().unwrap_or(Ok(CallOutput::Done))
    }

    /// The error for an output that does not fit the request.
    fn unexpected(&self, server: usize, value: &CallOutput) -> Error {
        self.shared
            .name(server)
            .protocol(format!("it answered with {value:?}"))
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }
}
