//! The client library: the whole memory behind one object, whichever servers hold it.
//!
//! No thread of its own: a call drives the sockets it needs (`pump`), over *links* to servers that are kept for the next
//! call (`pool`, `link`), or works on the shared memory of a server on this host (`local`). Each link has a session
//! (`session`), so that a request whose connection breaks is sent again and still takes effect once.

mod buffer;
mod connect;
mod copy;
mod error;
mod job;
mod lane;
mod link;
mod local;
mod pipeline;
mod pool;
mod pump;
mod receive;
mod session;
mod trouble;

#[cfg(feature = "mcomp-cfg")]
pub use dsm_config as config;
pub use dsm_core::LocalAccess;
pub use dsm_core::layout;
pub use dsm_core::protocol::Status;
pub use error::Error;
pub use local::DataPath;
pub use pipeline::{Pipeline, Reply};

#[cfg(feature = "mcomp-cfg")]
use dsm_config::Config;
use dsm_core::layout::{Layout, Piece};
use dsm_core::printable::{self, printable};
use dsm_core::protocol::AtomicOperation;
use job::{Job, Value, Work};
use local::Limit;
use pool::Shared;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a call may take unless it is told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest timeout: any longer one is taken for this. A year.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads longer than this, in bytes, ask first whether this process can have the memory.
const LARGE: u64 = 16 << 20;

/// Access to the whole memory. Connects when it has to; may be used from many threads at once, by reference, in an `Arc`
/// or as clones, which share connections.
///
/// A range inside one server, up to [`MAX_ATOMIC`](layout::MAX_ATOMIC) bytes long, is read or changed as one
/// indivisible step. A longer one, or one over several servers, is a set of such steps, carried out in parallel.
///
/// What is on a server of this host is read and changed in its shared memory, where this process may open that (see
/// [`LocalAccess`] and [`Client::data_path`]); with the same promises, and without a system call as a rule. It waits for
/// those that are at work on the same pages, and for the cut of a snapshot. At the deadline the error is
/// [`Error::Unavailable`]: what is refused there has changed nothing.
///
/// Anything else goes over the network. Each call has a deadline, and until then does all it can: it connects again, with pauses that grow, when a server
/// restarts, and sends again what had no reply. Each change still takes effect once. When that cannot be told any more, the
/// error is [`Error::OutcomeUnknown`]. One thing does not heed the deadline: host names in the network map are looked up
/// by the system, which takes the time it takes; numeric addresses avoid it.
///
/// ```
/// use dsm_client::{Client, Error, layout::Layout};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let servers = vec!["10.0.0.1:7411".into(), "10.0.0.2:7411".into()];
/// let client = Client::with_layout(Layout::new("dsm", 64 << 20, servers)?);
/// assert_eq!(client.size(), 128 << 20);
/// assert!(matches!(client.read(128 << 20, 1), Err(Error::OutsideMemory(_))));
/// # Ok(())
/// # }
/// ```
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = dsm_client::config::Config::load(&dsm_client::config::Config::find(None))?;
/// let client = dsm_client::Client::new(&config);
/// client.write(4096, b"hello, memory")?;
/// assert_eq!(client.read(4096, 5)?, b"hello");
/// let visitors = client.fetch_add(0, 1)? + 1;
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
    /// A client of the memory that mcomp.cfg describes, with the settings that it gives. Connects lazily.
    #[cfg(feature = "mcomp-cfg")]
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let client = Self::with_layout(config.layout.clone());
        client.with_timeout(config.client.timeout).with_local(config.client.local)
    }

    /// A client of the memory with this layout, with a timeout of 5 s and [`LocalAccess::Auto`]. Connects lazily.
    #[must_use]
    pub fn with_layout(layout: Layout) -> Self {
        Self { shared: Arc::new(Shared::new(layout)), timeout: DEFAULT_TIMEOUT, local: LocalAccess::Auto }
    }

    /// The same client with another deadline for each call. Connections are shared with the clones it had before.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(MAX_TIMEOUT);
        self
    }

    /// The same client with another way to servers on this host. What it has is shared with the clones it had before.
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
    /// [`Error::OutsideMemory`], [`Error::NoRoom`], or what a server met; see [`Error`].
    pub fn read(&self, address: u64, length: u64) -> Result<Vec<u8>, Error> {
        // Before the memory is allocated: the length may be anything.
        self.shared.layout.pieces(address, length).map(drop)?;
        let no_room = || Error::NoRoom { length };
        let bytes = usize::try_from(length).map_err(|_| no_room())?;
        if length > LARGE {
            Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| no_room())?;
        }
        let mut data = vec![0; bytes];
        self.read_into(address, &mut data)?;
        Ok(data)
    }

    /// Reads as many bytes as `buffer` has. After an error, the buffer's contents are unspecified.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub fn read_into(&self, address: u64, buffer: &mut [u8]) -> Result<(), Error> {
        if let Some(piece) = self.only_piece(address, buffer.len() as u64)? {
            return self.part(piece, Work::ReadInto(buffer), self.limit()).map(drop);
        }
        self.call(self.deadline(), |pipeline| pipeline.read_into(address, buffer)).map(drop)
    }

    /// Writes `data`. When this returns, it is in the server's shared memory, and survives the death of dsmd.
    ///
    /// # Errors
    /// [`Error::OutsideMemory`], or what a server met; see [`Error`].
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), Error> {
        if let Some(piece) = self.only_piece(address, data.len() as u64)? {
            return self.part(piece, Work::Write(data), self.limit()).map(drop);
        }
        self.call(self.deadline(), |pipeline| pipeline.write(address, data)).map(drop)
    }

    /// Sets `length` bytes to `byte`.
    ///
    /// # Errors
    /// As [`Client::write`].
    pub fn fill(&self, address: u64, length: u64, byte: u8) -> Result<(), Error> {
        if let Some(piece) = self.only_piece(address, length)? {
            return self.part(piece, Work::Fill(byte), self.limit()).map(drop);
        }
        self.call(self.deadline(), |pipeline| pipeline.fill(address, length, byte)).map(drop)
    }

    /// Copies `length` bytes; the ranges may overlap, and the result is then that of memmove(3). Where source and
    /// destination are on one server, the bytes stay there; else they come through this process.
    ///
    /// # Errors
    /// As [`Client::write`]; parts of the copy may then be done.
    pub fn copy(&self, from: u64, to: u64, length: u64) -> Result<(), Error> {
        let layout = &self.shared.layout;
        layout.pieces(from, length).map(drop)?;
        layout.pieces(to, length).map(drop)?;
        if from == to {
            return Ok(());
        }
        let limit = self.limit().fixed();
        let backward = copy::is_backward(from, to, length);
        let mut carried = Vec::new();
        for step in copy::steps(layout, from, to, length) {
            if step.same_server {
                let (_, from) = layout.locate(step.from)?;
                let (server, offset) = layout.locate(step.to)?;
                let piece = Piece { server, offset, address: step.to, length: step.length };
                self.part(piece, Work::Copy { from, backward }, limit)?;
                continue;
            }
            // A step that is carried is short.
            #[allow(clippy::cast_possible_truncation)]
            carried.resize(step.length as usize, 0);
            self.call(limit.instant(), |pipeline| pipeline.read_into(step.from, &mut carried))?;
            self.call(limit.instant(), |pipeline| pipeline.write(step.to, &carried))?;
        }
        Ok(())
    }

    /// Adds to the word at `address`, a multiple of eight, wrapping at 2^64; returns the old value. Words are
    /// little-endian.
    ///
    /// # Errors
    /// [`Error::Unaligned`], and as [`Client::write`].
    pub fn fetch_add(&self, address: u64, operand: u64) -> Result<u64, Error> {
        self.atomic(address, AtomicOperation::Add(operand))
    }

    /// Replaces the word at `address`; returns the old value.
    ///
    /// # Errors
    /// As [`Client::fetch_add`].
    pub fn swap(&self, address: u64, new: u64) -> Result<u64, Error> {
        self.atomic(address, AtomicOperation::Swap(new))
    }

    /// Replaces the word at `address` if it is `expected`; returns the old value. It was replaced if and only if that is
    /// `expected`.
    ///
    /// # Errors
    /// As [`Client::fetch_add`].
    pub fn compare_and_swap(&self, address: u64, expected: u64, new: u64) -> Result<u64, Error> {
        self.atomic(address, AtomicOperation::CompareAndSwap { expected, new })
    }

    /// Bitwise and on the word at `address`; returns the old value.
    ///
    /// # Errors
    /// As [`Client::fetch_add`].
    pub fn fetch_and(&self, address: u64, operand: u64) -> Result<u64, Error> {
        self.atomic(address, AtomicOperation::And(operand))
    }

    /// Bitwise or on the word at `address`; returns the old value.
    ///
    /// # Errors
    /// As [`Client::fetch_add`].
    pub fn fetch_or(&self, address: u64, operand: u64) -> Result<u64, Error> {
        self.atomic(address, AtomicOperation::Or(operand))
    }

    /// Bitwise exclusive or on the word at `address`; returns the old value.
    ///
    /// # Errors
    /// As [`Client::fetch_add`].
    pub fn fetch_xor(&self, address: u64, operand: u64) -> Result<u64, Error> {
        self.atomic(address, AtomicOperation::Xor(operand))
    }

    /// A pipeline: many requests submitted at once, collected in order. It takes connections of its own.
    #[must_use]
    pub fn pipeline<'a>(&self) -> Pipeline<'a> {
        Pipeline::new(&self.shared, self.timeout, self.local)
    }

    /// The state and counters of a server. A server that is down is an error at once, if its machine says so; where nothing
    /// answers, this tries again until the deadline.
    ///
    /// # Errors
    /// [`Error::NoSuchServer`], or what the server met.
    pub fn status(&self, server: usize) -> Result<Status, Error> {
        let text = match self.ask(server, Work::Status(Vec::new()))? {
            Value::Data(text) => text,
            value => unreachable!("status succeeded with {value:?}"),
        };
        serde_json::from_slice(&text).map_err(|error| Error::Protocol {
            server,
            address: self.shared.address(server).to_owned(),
            // It quotes what it has not understood.
            message: format!("its status is not understood: {}", printable(&error.to_string(), printable::LOG)),
        })
    }

    /// Asks a server for nothing; returns the time of the round trip, without that of connecting. Tries as often as
    /// [`Client::status`].
    ///
    /// # Errors
    /// [`Error::NoSuchServer`], or what the server met.
    pub fn ping(&self, server: usize) -> Result<Duration, Error> {
        match self.ask(server, Work::Ping(None, [0; 8]))? {
            Value::RoundTrip(time) => Ok(time),
            value => unreachable!("a ping succeeded with {value:?}"),
        }
    }

    /// Goes on with whatever memory the server has, after [`Error::MemoryLost`]: forgets the incarnation known so far. Does
    /// nothing when there is no such server.
    pub fn accept_memory_loss(&self, server: usize) {
        self.shared.forget_incarnation(server);
    }

    fn atomic(&self, address: u64, operation: AtomicOperation) -> Result<u64, Error> {
        if !address.is_multiple_of(8) {
            return Err(Error::Unaligned { address });
        }
        self.shared.layout.pieces(address, 8).map(drop)?;
        let (server, offset) = self.shared.layout.locate(address)?;
        match self.part(Piece { server, offset, address, length: 8 }, Work::Atomic(operation), self.limit())? {
            Value::Old(old) => Ok(old),
            value => unreachable!("an atomic succeeded with {value:?}"),
        }
    }

    /// The way that requests to a server take now. Connects to no server, but opens the shared memory if it can.
    ///
    /// # Errors
    /// [`Error::NoSuchServer`].
    pub fn data_path(&self, server: usize) -> Result<DataPath, Error> {
        self.shared.check_server(server)?;
        let is_local = self.local == LocalAccess::Auto && self.shared.is_local(server);
        Ok(if is_local { DataPath::Local } else { DataPath::Tcp })
    }

    /// The piece of a range that is inside one server.
    fn only_piece(&self, address: u64, length: u64) -> Result<Option<Piece>, Error> {
        let first = self.shared.layout.pieces(address, length)?.next();
        Ok(first.filter(|piece| piece.length == length))
    }

    /// Work inside one server: at once if its shared memory is open, else by TCP.
    fn part<'a>(&self, piece: Piece, work: Work<'a>, mut limit: Limit) -> Result<Value, Error> {
        let mut job = Job::new(work, piece.offset, piece.length);
        if self.local == LocalAccess::Auto {
            match local::execute(&self.shared, piece.server, &mut job, limit) {
                Some(left) => limit = left,
                None => return job.outcome(),
            }
        }
        self.call(limit.instant(), |pipeline: &mut Pipeline<'a>| pipeline.submit_job(piece.server, job))
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

    fn limit(&self) -> Limit {
        Limit::Timeout(self.timeout)
    }

    fn deadline(&self) -> Instant {
        self.limit().instant()
    }
}
