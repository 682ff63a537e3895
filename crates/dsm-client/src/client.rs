//! The whole memory behind one object, whichever servers hold it.

#[cfg(feature = "mcomp-cfg")]
use super::Config;
use super::copy::{self, Step};
use super::error::{Effect, Error};
use super::job::{Job, Value, Work};
use super::local::{self, DataPath};
use super::pool::Shared;
use super::{CompareAndSwap, Pipeline};
use dsm_core::layout::{Layout, Piece};
use dsm_core::printable::{self, printable};
use dsm_core::protocol::{AtomicOperation, Status};
use dsm_core::segment::Deadline;
use dsm_core::{Address, LocalAccess, ServerIndex};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a call may take unless it is told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest timeout: any longer one is taken for this. A year.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads longer than this, in bytes, ask first whether this process can have the memory.
const LARGE: u64 = 16 << 20;

/// Access to the whole memory. Connects when it has to; may be used from many threads at once, by
/// reference, in an `Arc` or as clones, which share connections.
///
/// A range inside one server, up to [`MAX_ATOMIC`](crate::layout::MAX_ATOMIC) bytes long, is read
/// or changed as one indivisible step. A longer one, or one over several servers, is a set of such
/// steps, carried out in parallel.
///
/// What is on a server of this host is read and changed in its shared memory, where this process
/// may open that (see [`LocalAccess`] and [`Client::data_path`]); with the same promises, and
/// without a system call as a rule. It waits for those that are at work on the same pages, and for
/// the cut of a snapshot. At the deadline the error is
/// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable): what is refused there has changed
/// nothing.
///
/// Anything else goes over the network. Each call has a deadline, and until then does all it can:
/// it connects again, with pauses that grow, when a server restarts, and sends again what had no
/// reply. Each change still takes effect once. When that cannot be told any more, the error is
/// [`ErrorKind::OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown). One thing does not heed the
/// deadline: host names in the network map are looked up by the system, which takes the time it
/// takes; numeric addresses avoid it.
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
    shared: Arc<Shared>,
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
            shared: Arc::new(Shared::new(layout)),
            timeout: DEFAULT_TIMEOUT,
            local: LocalAccess::Auto,
        }
    }

    /// The same client with another deadline for each call. Connections are shared with the clones
    /// it had before.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(MAX_TIMEOUT);
        self
    }

    /// The same client with another way to servers on this host. What it has is shared with the
    /// clones it had before.
    #[must_use]
    pub fn with_local(mut self, local: LocalAccess) -> Self {
        self.local = local;
        self
    }

    /// The layout that it works with.
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
    /// [`ErrorKind::NoRoom`](crate::ErrorKind::NoRoom), or what a server met; see [`Error`].
    pub fn read(&self, address: impl Into<Address>, length: u64) -> Result<Vec<u8>, Error> {
        let address = address.into();
        // Before the memory is allocated: the length may be anything.
        self.shared.layout.pieces(address.get(), length).map(drop)?;
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
            return self.part(piece, Work::ReadInto(buffer), None).map(drop);
        }
        self.call(self.deadline(), |pipeline| {
            pipeline.read_into(address, buffer)
        })
        .map(drop)
    }

    /// Writes `data`. When this returns, it is in the server's shared memory, and survives the
    /// death of dsmd.
    ///
    /// # Errors
    /// [`ErrorKind::OutsideMemory`](crate::ErrorKind::OutsideMemory), or what a server met; see
    /// [`Error`].
    pub fn write(&self, address: impl Into<Address>, data: &[u8]) -> Result<(), Error> {
        let address = address.into().get();
        if let Some(piece) = self.only_piece(address, data.len() as u64)? {
            return self.part(piece, Work::Write(data), None).map(drop);
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
            return self.part(piece, Work::Fill(byte), None).map(drop);
        }
        self.call(self.deadline(), |pipeline| {
            pipeline.fill(address, length, byte)
        })
        .map(drop)
    }

    /// Copies the bytes of `source` to the range of the same length that begins at `destination`,
    /// as [`copy_within`](slice::copy_within) does; the ranges may overlap. Where both are on one
    /// server, the bytes stay there; else they come through this process.
    ///
    /// # Errors
    /// As [`Client::write`]; parts of the copy may then be done.
    pub fn copy(&self, source: Range<u64>, destination: impl Into<Address>) -> Result<(), Error> {
        let (from, to, length) = (
            source.start,
            destination.into().get(),
            source.end.saturating_sub(source.start),
        );
        let layout = &self.shared.layout;
        layout.pieces(from, length).map(drop)?;
        layout.pieces(to, length).map(drop)?;
        if from == to {
            return Ok(());
        }
        let deadline = self.deadline();
        let backward = copy::is_backward(from, to, length);
        let mut carried = Vec::new();
        for (number, step) in copy::steps(layout, from, to, length).enumerate() {
            self.copy_step(&step, backward, &mut carried, deadline)
                .map_err(|error| match number {
                    0 => error,
                    // The steps before have changed the memory.
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
        let layout = &self.shared.layout;
        if step.same_server {
            let (_, from) = layout.locate(step.from)?;
            let (server, offset) = layout.locate(step.to)?;
            let piece = Piece {
                server,
                offset,
                address: step.to,
                length: step.length,
            };
            return self
                .part(piece, Work::Copy { from, backward }, Some(deadline))
                .map(drop);
        }
        // A step that is carried is short.
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

    /// A pipeline: many requests submitted at once, collected in order. It takes connections of its
    /// own.
    #[must_use]
    pub fn pipeline<'a>(&self) -> Pipeline<'a> {
        Pipeline::new(&self.shared, self.timeout, self.local)
    }

    /// The state and counters of a server. A server that is down is an error at once, if its
    /// machine says so; where nothing answers, this tries again until the deadline.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchServer`](crate::ErrorKind::NoSuchServer), or what the server met.
    pub fn status(&self, server: impl Into<ServerIndex>) -> Result<Status, Error> {
        let server = server.into().get();
        let text = match self.ask(server, Work::Status(Vec::new()))? {
            Value::Data(text) => text,
            value => return Err(self.unexpected(server, &value)),
        };
        serde_json::from_slice(&text).map_err(|error| {
            // It quotes what it has not understood.
            let error = error.to_string();
            let error = printable(&error, printable::LOG);
            self.shared
                .name(server)
                .protocol(format!("its status is not understood: {error}"))
        })
    }

    /// Asks a server for nothing; returns the time of the round trip, without that of connecting.
    /// Tries as often as [`Client::status`].
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchServer`](crate::ErrorKind::NoSuchServer), or what the server met.
    pub fn ping(&self, server: impl Into<ServerIndex>) -> Result<Duration, Error> {
        let server = server.into().get();
        match self.ask(server, Work::Ping(None, [0; 8]))? {
            Value::RoundTrip(time) => Ok(time),
            value => Err(self.unexpected(server, &value)),
        }
    }

    /// Accepts the memory that the server has now, after
    /// [`ErrorKind::MemoryLost`](crate::ErrorKind::MemoryLost): forgets the incarnation known so
    /// far. Does nothing when there is no such server.
    pub fn accept_memory_loss(&self, server: impl Into<ServerIndex>) {
        self.shared.forget_incarnation(server.into().get());
    }

    fn atomic(&self, address: u64, operation: AtomicOperation) -> Result<u64, Error> {
        if !address.is_multiple_of(8) {
            return Err(Error::unaligned(address));
        }
        self.shared.layout.pieces(address, 8).map(drop)?;
        let (server, offset) = self.shared.layout.locate(address)?;
        match self.part(
            Piece {
                server,
                offset,
                address,
                length: 8,
            },
            Work::Atomic(operation),
            None,
        )? {
            Value::Old(old) => Ok(old),
            value => Err(self.unexpected(server, &value)),
        }
    }

    /// The way that requests to a server take now. Connects to no server, but opens the shared
    /// memory if it can.
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
        let first = self.shared.layout.pieces(address, length)?.next();
        Ok(first.filter(|piece| piece.length == length))
    }

    /// Work inside one server: at once if its shared memory is open, else by TCP, and then until
    /// the deadline, or for as long as this client waits.
    fn part<'a>(
        &self,
        piece: Piece,
        work: Work<'a>,
        mut deadline: Option<Instant>,
    ) -> Result<Value, Error> {
        let mut job = Job::new(work, piece.offset, piece.length);
        if self.local == LocalAccess::Auto {
            let timeout = match deadline {
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
                None => self.timeout,
            };
            let begun = local::execute(
                &self.shared,
                piece.server,
                &mut job,
                local::nanoseconds(timeout),
            );
            if job.is_finished() {
                return job.outcome();
            }
            deadline = deadline.or_else(|| begun.map(Deadline::instant));
        }
        let deadline = deadline.unwrap_or_else(|| self.deadline());
        self.call(deadline, |pipeline: &mut Pipeline<'a>| {
            pipeline.submit_job(piece.server, job)
        })
    }

    fn ask(&self, server: usize, work: Work<'_>) -> Result<Value, Error> {
        let mut pipeline = Pipeline::until_answered(&self.shared, self.timeout);
        pipeline.submit_to(server, work)?;
        pipeline.collect_next().unwrap_or(Ok(Value::Done))
    }

    /// A blocking call: a pipeline of one request.
    fn call<'a>(
        &self,
        deadline: Instant,
        submit: impl FnOnce(&mut Pipeline<'a>) -> Result<(), Error>,
    ) -> Result<Value, Error> {
        let mut pipeline = Pipeline::until(&self.shared, deadline, self.timeout, self.local);
        submit(&mut pipeline)?;
        pipeline.collect_next().unwrap_or(Ok(Value::Done))
    }

    /// The error for a reply that answers something else.
    fn unexpected(&self, server: usize, value: &Value) -> Error {
        self.shared
            .name(server)
            .protocol(format!("it answered with {value:?}"))
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }
}
