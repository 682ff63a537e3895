//! Many requests under way at once, their replies collected in the order of submission.

use super::CompareAndSwap;
use super::error::{Effect, Error};
use super::job::{Job, Value, Work};
use super::lane::Lane;
use super::local;
use super::pool::Shared;
use super::pump::pump;
use dsm_core::layout::Piece;
use dsm_core::protocol::AtomicOperation;
use dsm_core::{Address, LocalAccess};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a pipelined request has found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// The bytes of a read.
    Data(Vec<u8>),
    /// A write or fill was carried out, or the bytes of a read are in its buffer.
    Done,
    /// The value of the word before an atomic.
    Old(u64),
}

/// Submits many requests without waiting for each, and collects their outcomes in order as an
/// iterator.
///
/// Requests to one server are carried out in the order of submission; between servers there is no
/// order. A request to a server whose shared memory this process uses is carried out when it is
/// submitted. Any other starts then, or, while replies of the same server are awaited, together
/// with others, at the latest at the next [`next`](Iterator::next). Once 128 requests to a server
/// have no reply, a submission waits for replies first. Outcomes that are not collected stay in
/// memory: collect them as you go.
///
/// The client's timeout bounds each submission and each `next` on its own. When it passes, every
/// request that waits for the same server fails.
///
/// A pipeline that is dropped while requests are unanswered closes their connections: whether those
/// requests take effect is then unknown, as after
/// [`ErrorKind::OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown).
///
/// A pipeline has no copy: between servers, a copy is a write that depends on the read before it,
/// which a queue of independent requests cannot express. [`Client::copy`](crate::Client::copy)
/// does it.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let layout = dsm_client::Layout::new("dsm", 65536, vec!["127.0.0.1:7411".into()])?;
/// # let client = dsm_client::Client::with_layout(layout);
/// let mut pipeline = client.pipeline();
/// for counter in 0..1000 {
///     pipeline.fetch_add(counter * 8, 1)?;
/// }
/// for reply in &mut pipeline {
///     println!("{:?}", reply?);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Pipeline<'a> {
    shared: Arc<Shared>,
    timeout: Duration,
    /// One for all that is done here, instead of one for each call.
    deadline: Option<Instant>,
    until_answered: bool,
    /// Whether servers on this host may be reached through their shared memory.
    local: LocalAccess,
    lanes: Vec<Lane<'a>>,
    entries: VecDeque<Entry>,
}

/// A request whose outcome was not collected. The oldest job of each of its servers' lanes is a
/// part of the oldest entry, since both are queues; but for parts that were done at once, of which
/// no lane knows.
#[derive(Debug)]
struct Entry {
    servers: Range<usize>,
    reads: bool,
    /// Whether it changes the memory.
    mutates: bool,
    /// Outcomes of the parts that were done at once, with their servers.
    done: Vec<(usize, Result<Value, Error>)>,
}

impl Entry {
    /// Whether the lane has a part of it.
    fn concerns(&self, lane: &Lane<'_>) -> bool {
        let server = lane.server();
        self.servers.contains(&server) && !self.done.iter().any(|(done, _)| *done == server)
    }
}

impl<'a> Pipeline<'a> {
    pub(super) fn new(shared: &Arc<Shared>, timeout: Duration, local: LocalAccess) -> Self {
        Self {
            shared: Arc::clone(shared),
            timeout,
            deadline: None,
            until_answered: false,
            local,
            lanes: Vec::new(),
            entries: VecDeque::new(),
        }
    }

    /// For one blocking call.
    pub(super) fn until(
        shared: &Arc<Shared>,
        deadline: Instant,
        timeout: Duration,
        local: LocalAccess,
    ) -> Self {
        Self {
            deadline: Some(deadline),
            ..Self::new(shared, timeout, local)
        }
    }

    /// For one call that says at once when no server is there.
    pub(super) fn until_answered(shared: &Arc<Shared>, timeout: Duration) -> Self {
        Self {
            until_answered: true,
            ..Self::new(shared, timeout, LocalAccess::Never)
        }
    }

    /// Submits a read of `length` bytes; its outcome is [`Reply::Data`].
    ///
    /// # Errors
    /// [`ErrorKind::OutsideMemory`](crate::ErrorKind::OutsideMemory); or that of a server which
    /// made no room before the deadline. Nothing was submitted then.
    pub fn read(&mut self, address: impl Into<Address>, length: u64) -> Result<(), Error> {
        let address = address.into().get();
        self.submit(address, length, |_| Work::Read(Vec::new()))?;
        self.entries
            .back_mut()
            .into_iter()
            .for_each(|entry| entry.reads = true);
        Ok(())
    }

    /// Submits a read of as many bytes as `buffer` has; its outcome is [`Reply::Done`], and then
    /// the bytes are in `buffer`. Until then, and after an error, the buffer's contents are
    /// unspecified.
    ///
    /// # Errors
    /// As [`Pipeline::read`].
    pub fn read_into(
        &mut self,
        address: impl Into<Address>,
        buffer: &'a mut [u8],
    ) -> Result<(), Error> {
        let address = address.into().get();
        let length = buffer.len() as u64;
        let mut rest = buffer;
        self.submit(address, length, |piece| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(length_of(piece));
            rest = tail;
            Work::ReadInto(head)
        })
    }

    /// Submits a write; its outcome is [`Reply::Done`].
    ///
    /// # Errors
    /// As [`Pipeline::read`].
    pub fn write(&mut self, address: impl Into<Address>, data: &'a [u8]) -> Result<(), Error> {
        let address = address.into().get();
        let mut rest = data;
        self.submit(address, data.len() as u64, |piece| {
            let (head, tail) = rest.split_at(length_of(piece));
            rest = tail;
            Work::Write(head)
        })
    }

    /// Submits the setting of `length` bytes to `byte`; its outcome is [`Reply::Done`].
    ///
    /// # Errors
    /// As [`Pipeline::read`].
    pub fn fill(
        &mut self,
        address: impl Into<Address>,
        length: u64,
        byte: u8,
    ) -> Result<(), Error> {
        let address = address.into().get();
        self.submit(address, length, |_| Work::Fill(byte))
    }

    /// Submits an addition to the word at `address`, wrapping at 2^64; its outcome is
    /// [`Reply::Old`].
    ///
    /// # Errors
    /// [`ErrorKind::Unaligned`](crate::ErrorKind::Unaligned), and as [`Pipeline::read`].
    pub fn fetch_add(&mut self, address: impl Into<Address>, operand: u64) -> Result<(), Error> {
        self.atomic(address.into().get(), AtomicOperation::Add(operand))
    }

    /// Submits the replacement of the word at `address`; its outcome is [`Reply::Old`].
    ///
    /// # Errors
    /// As [`Pipeline::fetch_add`].
    pub fn swap(&mut self, address: impl Into<Address>, new: u64) -> Result<(), Error> {
        self.atomic(address.into().get(), AtomicOperation::Swap(new))
    }

    /// Submits the replacement of the word at `address` if it is `expected`; its outcome is
    /// [`Reply::Old`].
    ///
    /// # Errors
    /// As [`Pipeline::fetch_add`].
    pub fn compare_and_swap(
        &mut self,
        address: impl Into<Address>,
        words: CompareAndSwap,
    ) -> Result<(), Error> {
        self.atomic(address.into().get(), words.operation())
    }

    /// Submits a bitwise and on the word at `address`; its outcome is [`Reply::Old`].
    ///
    /// # Errors
    /// As [`Pipeline::fetch_add`].
    pub fn fetch_and(&mut self, address: impl Into<Address>, operand: u64) -> Result<(), Error> {
        self.atomic(address.into().get(), AtomicOperation::And(operand))
    }

    /// Submits a bitwise or on the word at `address`; its outcome is [`Reply::Old`].
    ///
    /// # Errors
    /// As [`Pipeline::fetch_add`].
    pub fn fetch_or(&mut self, address: impl Into<Address>, operand: u64) -> Result<(), Error> {
        self.atomic(address.into().get(), AtomicOperation::Or(operand))
    }

    /// Submits a bitwise exclusive or on the word at `address`; its outcome is [`Reply::Old`].
    ///
    /// # Errors
    /// As [`Pipeline::fetch_add`].
    pub fn fetch_xor(&mut self, address: impl Into<Address>, operand: u64) -> Result<(), Error> {
        self.atomic(address.into().get(), AtomicOperation::Xor(operand))
    }

    /// How many requests were submitted whose outcome was not collected.
    #[must_use]
    pub fn uncollected(&self) -> usize {
        self.entries.len()
    }

    /// Whether the outcome of the oldest request is there, so that [`next`](Iterator::next) returns
    /// it without waiting. It only looks: it neither sends nor receives, so that it stays false
    /// until [`next`](Iterator::next) or a submission has done so. After `next`, collect every
    /// outcome that is there before you submit more: requests then go out together, too.
    #[must_use]
    pub fn is_next_ready(&self) -> bool {
        let Some(entry) = self.entries.front() else {
            return false;
        };
        self.lanes
            .iter()
            .filter(|lane| entry.concerns(lane))
            .all(Lane::front_is_finished)
    }

    pub(super) fn atomic(&mut self, address: u64, operation: AtomicOperation) -> Result<(), Error> {
        if !address.is_multiple_of(8) {
            return Err(Error::unaligned(address));
        }
        self.submit(address, 8, |_| Work::Atomic(operation))
    }

    /// Submits work for each piece of a range.
    fn submit(
        &mut self,
        address: u64,
        length: u64,
        mut work: impl FnMut(Piece) -> Work<'a>,
    ) -> Result<(), Error> {
        let pieces = self.shared.pieces(address, length)?;
        let server_of = |address| {
            let located = self.shared.layout.locate(address);
            located
                .map(|(server, _)| server)
                .map_err(Error::outside_memory)
        };
        let servers = match length {
            0 => 0..0,
            _ => server_of(address)?..server_of(address + length - 1)? + 1,
        };
        let began = Instant::now();
        let now = self.make_room(servers.clone(), began)?;
        let mut at_once = Vec::new();
        let mut mutates = false;
        for piece in pieces {
            let job = Job::new(work(piece), piece.offset, piece.length);
            mutates |= job.opcode().mutates();
            if self.goes_locally(piece.server) {
                at_once.push((piece.server, job));
            } else {
                self.push(piece.server, job, now);
            }
        }
        // While the other servers are at work.
        let mut done = Vec::new();
        for (index, (server, mut job)) in at_once.into_iter().enumerate() {
            let timeout = match self.deadline {
                None if index == 0 && now == began => self.timeout,
                deadline => deadline
                    .unwrap_or(began + self.timeout)
                    .saturating_duration_since(Instant::now()),
            };
            local::execute(&self.shared, server, &mut job, local::nanoseconds(timeout));
            if job.is_finished() {
                done.push((server, job.outcome()));
            } else {
                self.push(server, job, now);
            }
        }
        self.entries.push_back(Entry {
            servers,
            reads: false,
            mutates,
            done,
        });
        Ok(())
    }

    /// Whether a request to the server is carried out at once: not while earlier ones are under way
    /// to it, for they come first.
    fn goes_locally(&self, server: usize) -> bool {
        self.local == LocalAccess::Auto
            && !self
                .lanes
                .iter()
                .any(|lane| lane.server() == server && lane.is_busy())
            && self.shared.is_local(server)
    }

    /// Submits work for one server that is about no range.
    pub(super) fn submit_to(&mut self, server: usize, work: Work<'a>) -> Result<(), Error> {
        self.shared.check_server(server)?;
        self.submit_job(server, Job::new(work, 0, 0))
    }

    /// Submits what is left of a job, to go by TCP.
    pub(super) fn submit_job(&mut self, server: usize, job: Job<'a>) -> Result<(), Error> {
        let now = self.make_room(server..server + 1, Instant::now())?;
        let mutates = job.opcode().mutates();
        self.push(server, job, now);
        self.entries.push_back(Entry {
            servers: server..server + 1,
            reads: false,
            mutates,
            done: Vec::new(),
        });
        Ok(())
    }

    fn push(&mut self, server: usize, job: Job<'a>, now: Instant) {
        let index = self
            .lanes
            .iter()
            .position(|lane| lane.server() == server)
            .unwrap_or_else(|| {
                let mut lane = Lane::new(self.shared.check_out(server, now));
                lane.until_answered = self.until_answered;
                self.lanes.push(lane);
                self.lanes.len() - 1
            });
        let lane = &mut self.lanes[index];
        lane.push(job);
        lane.nudge(now);
    }

    /// Waits while one of the servers has too much to do for this pipeline. Returns what was `now`
    /// before and may be later.
    fn make_room(&mut self, servers: Range<usize>, now: Instant) -> Result<Instant, Error> {
        let concerned = |lane: &&Lane<'_>| servers.contains(&lane.server());
        if !self.lanes.iter().filter(concerned).any(Lane::is_full) {
            return Ok(now);
        }
        let relieved = |lanes: &[Lane<'_>]| lanes.iter().filter(concerned).all(Lane::is_relieved);
        let deadline = self.deadline.unwrap_or(now + self.timeout);
        if pump(&mut self.lanes, deadline, relieved).is_ok() {
            return Ok(Instant::now());
        }
        let (timeout, now) = (self.timeout, Instant::now());
        let mut error = None;
        for lane in self
            .lanes
            .iter_mut()
            .filter(|lane| servers.contains(&lane.server()) && !lane.is_relieved())
        {
            lane.give_up(timeout, now);
            error.get_or_insert_with(|| {
                lane.unavailable(format!("it made no room within {timeout:?}"))
            });
        }
        error.map_or(Ok(now), Err)
    }

    fn deadline(&self) -> Instant {
        self.deadline
            .unwrap_or_else(|| Instant::now() + self.timeout)
    }

    /// Waits for the outcome of the oldest request.
    pub(super) fn collect_next(&mut self) -> Option<Result<Value, Error>> {
        let entry = self.entries.pop_front()?;
        if entry.reads && entry.servers.is_empty() {
            return Some(Ok(Value::Data(Vec::new())));
        }
        let deadline = self.deadline();
        let concerned = |lane: &&Lane<'_>| entry.concerns(lane);
        let finished =
            |lanes: &[Lane<'_>]| lanes.iter().filter(concerned).all(Lane::front_is_finished);
        if pump(&mut self.lanes, deadline, finished).is_err() {
            let (timeout, now) = (self.timeout, Instant::now());
            let late = |lane: &&mut Lane<'_>| entry.concerns(lane) && !lane.front_is_finished();
            self.lanes
                .iter_mut()
                .filter(late)
                .for_each(|lane| lane.give_up(timeout, now));
        }
        let mut done = entry.done.into_iter().peekable();
        let mut outcome = Ok(Value::Done);
        let mut is_begun = false;
        for server in entry.servers {
            let part = match done.next_if(|(of, _)| *of == server) {
                Some((_, part)) => Some(part),
                None => self
                    .lanes
                    .iter_mut()
                    .find(|lane| lane.server() == server)
                    .and_then(Lane::take),
            };
            if let Some(part) = part {
                is_begun |= part.is_ok();
                outcome = join(outcome, part);
            }
        }
        Some(match outcome {
            Err(error) if is_begun && entry.mutates => Err(error.with_effect(Effect::Possible)),
            outcome => outcome,
        })
    }
}

/// The outcome of two parts of one request, in the order of their addresses.
fn join(before: Result<Value, Error>, after: Result<Value, Error>) -> Result<Value, Error> {
    match (before, after) {
        (Ok(Value::Data(mut data)), Ok(Value::Data(more))) => {
            data.extend_from_slice(&more);
            Ok(Value::Data(data))
        }
        (Ok(_), after) => after,
        (Err(error), Ok(_)) => Err(error),
        (Err(first), Err(second)) => Err(first.or_graver(second)),
    }
}

impl Iterator for Pipeline<'_> {
    type Item = Result<Reply, Error>;

    /// Waits for the outcome of the oldest request that was not collected; `None` when there is
    /// none.
    fn next(&mut self) -> Option<Self::Item> {
        Some(self.collect_next()?.map(|value| match value {
            Value::Data(data) => Reply::Data(data),
            Value::Old(old) => Reply::Old(old),
            Value::Done | Value::RoundTrip(_) => Reply::Done,
        }))
    }
}

#[allow(clippy::cast_possible_truncation)] // A piece of a slice.
fn length_of(piece: Piece) -> usize {
    piece.length as usize
}
