//! Requests that are submitted without waiting for each; their outcomes are collected in the order
//! of submission.

use super::call::{Call, CallKind, CallOutput};
use super::error::{Effect, Error};
use super::local;
use super::pool::ClientState;
use super::pump::pump;
use super::server_queue::ServerQueue;
use super::submitted::{SubmittedRequest, join};
use dsm_core::LocalAccess;
use dsm_core::layout::Piece;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a pipelined request returns.
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
/// A server carries out its requests in the order of submission; between servers there is no order.
/// A request to a server whose shared memory this process uses is carried out when it is submitted.
/// Any other is sent then; or, while replies of the same server are awaited, together with others,
/// at the latest at the next [`next`](Iterator::next). While 128 requests to a server have no
/// reply, a submission waits for replies first. Outcomes that are not collected stay in memory:
/// collect them as you go.
///
/// Each submission and each `next` has the client's timeout as its deadline. When that passes,
/// every request that waits for the same server fails.
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
    shared: Arc<ClientState>,
    timeout: Duration,
    /// One deadline for everything, instead of one for each submission and each `next`.
    deadline: Option<Instant>,
    /// Whether servers on this host may be reached through their shared memory.
    local: LocalAccess,
    queues: Vec<ServerQueue<'a>>,
    pub(super) submitted: VecDeque<SubmittedRequest>,
}

impl<'a> Pipeline<'a> {
    pub(super) fn new(shared: &Arc<ClientState>, timeout: Duration, local: LocalAccess) -> Self {
        Self {
            shared: Arc::clone(shared),
            timeout,
            deadline: None,
            local,
            queues: Vec::new(),
            submitted: VecDeque::new(),
        }
    }

    /// For one blocking call.
    pub(super) fn until(
        shared: &Arc<ClientState>,
        deadline: Instant,
        timeout: Duration,
        local: LocalAccess,
    ) -> Self {
        Self {
            deadline: Some(deadline),
            ..Self::new(shared, timeout, local)
        }
    }

    /// The number of submitted requests whose outcome was not collected.
    #[must_use]
    pub fn uncollected(&self) -> usize {
        self.submitted.len()
    }

    /// Whether the outcome of the oldest request is there, so that [`next`](Iterator::next) returns
    /// it without waiting. It only looks: it neither sends nor receives, so that it stays false
    /// until [`next`](Iterator::next) or a submission has done so. After `next`, collect every
    /// outcome that is there before you submit more: requests then go out together, too.
    #[must_use]
    pub fn is_next_ready(&self) -> bool {
        let Some(request) = self.submitted.front() else {
            return false;
        };
        self.queues
            .iter()
            .filter(|queue| request.concerns(queue))
            .all(ServerQueue::front_is_finished)
    }

    /// Submits a call for each piece of a range.
    pub(super) fn submit(
        &mut self,
        address: u64,
        length: u64,
        mut kind_of: impl FnMut(Piece) -> CallKind<'a>,
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
        let mut local_calls = Vec::new();
        let mut mutates = false;
        for piece in pieces {
            let call = Call::new(kind_of(piece), piece.offset, piece.length);
            mutates |= call.opcode().mutates();
            if self.goes_locally(piece.server) {
                local_calls.push((piece.server, call));
            } else {
                self.push(piece.server, call, now);
            }
        }
        // After the others were sent: their servers work at the same time.
        let mut done = Vec::new();
        for (index, (server, mut call)) in local_calls.into_iter().enumerate() {
            let timeout = match self.deadline {
                None if index == 0 && now == began => self.timeout,
                deadline => deadline
                    .unwrap_or(began + self.timeout)
                    .saturating_duration_since(Instant::now()),
            };
            local::execute(&self.shared, server, &mut call, local::nanoseconds(timeout));
            if call.is_finished() {
                done.push((server, call.outcome()));
            } else {
                self.push(server, call, now);
            }
        }
        self.submitted.push_back(SubmittedRequest {
            servers,
            reads: false,
            mutates,
            done,
        });
        Ok(())
    }

    /// Whether a request to the server is carried out in its shared memory. While earlier requests
    /// to it have no reply it is not, since they come first.
    fn goes_locally(&self, server: usize) -> bool {
        self.local == LocalAccess::Auto
            && !self
                .queues
                .iter()
                .any(|queue| queue.server() == server && queue.is_busy())
            && self.shared.is_local(server)
    }

    fn push(&mut self, server: usize, call: Call<'a>, now: Instant) {
        let index = self
            .queues
            .iter()
            .position(|queue| queue.server() == server)
            .unwrap_or_else(|| {
                let connection = self.shared.take_connection(server, now);
                self.queues.push(ServerQueue::new(connection));
                self.queues.len() - 1
            });
        let queue = &mut self.queues[index];
        if !queue.is_busy() && self.shared.has_abandoned(server) {
            // What a connection that is open already reads might not be final.
            queue.connection.reset(now);
        }
        queue.push(call);
        queue.maybe_send(now);
    }

    /// Waits while the queue of one of the servers is full. Returns the time, which is `now` if it
    /// did not wait.
    fn make_room(&mut self, servers: Range<usize>, now: Instant) -> Result<Instant, Error> {
        let is_concerned = |queue: &&ServerQueue<'_>| servers.contains(&queue.server());
        if !self
            .queues
            .iter()
            .filter(is_concerned)
            .any(ServerQueue::is_full)
        {
            return Ok(now);
        }
        let is_relieved = |queues: &[ServerQueue<'_>]| {
            queues
                .iter()
                .filter(is_concerned)
                .all(ServerQueue::is_relieved)
        };
        let deadline = self.deadline.unwrap_or(now + self.timeout);
        if pump(&mut self.queues, now, deadline, is_relieved).is_ok() {
            return Ok(Instant::now());
        }
        let (timeout, now) = (self.timeout, Instant::now());
        let mut error = None;
        for queue in self
            .queues
            .iter_mut()
            .filter(|queue| servers.contains(&queue.server()) && !queue.is_relieved())
        {
            queue.fail_at_deadline(timeout, now);
            error.get_or_insert_with(|| {
                queue.unavailable(format!("it made no room within {timeout:?}"))
            });
        }
        error.map_or(Ok(now), Err)
    }

    fn deadline(&self) -> Instant {
        self.deadline
            .unwrap_or_else(|| Instant::now() + self.timeout)
    }

    /// Waits for the outcome of the oldest request.
    pub(super) fn collect_next(&mut self) -> Option<Result<CallOutput, Error>> {
        let request = self.submitted.pop_front()?;
        if request.reads && request.servers.is_empty() {
            return Some(Ok(CallOutput::Data(Vec::new())));
        }
        let deadline = self.deadline();
        let is_concerned = |queue: &&ServerQueue<'_>| request.concerns(queue);
        let finished = |queues: &[ServerQueue<'_>]| {
            queues
                .iter()
                .filter(is_concerned)
                .all(ServerQueue::front_is_finished)
        };
        if pump(&mut self.queues, Instant::now(), deadline, finished).is_err() {
            let (timeout, now) = (self.timeout, Instant::now());
            let late = |queue: &&mut ServerQueue<'_>| {
                request.concerns(queue) && !queue.front_is_finished()
            };
            self.queues
                .iter_mut()
                .filter(late)
                .for_each(|queue| queue.fail_at_deadline(timeout, now));
        }
        let mut done = request.done.into_iter().peekable();
        let mut outcome = Ok(CallOutput::Done);
        let mut is_partly_done = false;
        for server in request.servers {
            let part = match done.next_if(|(of, _)| *of == server) {
                Some((_, part)) => Some(part),
                None => self
                    .queues
                    .iter_mut()
                    .find(|queue| queue.server() == server)
                    .and_then(ServerQueue::take),
            };
            if let Some(part) = part {
                is_partly_done |= part.is_ok();
                outcome = join(outcome, part);
            }
        }
        Some(match outcome {
            Err(error) if is_partly_done && request.mutates => {
                Err(error.with_effect(Effect::Possible))
            }
            outcome => outcome,
        })
    }
}

impl Iterator for Pipeline<'_> {
    type Item = Result<Reply, Error>;

    /// Waits for the outcome of the oldest request that was not collected; `None` when there is
    /// none.
    fn next(&mut self) -> Option<Self::Item> {
        Some(self.collect_next()?.map(|value| match value {
            CallOutput::Data(data) => Reply::Data(data),
            CallOutput::Old(old) => Reply::Old(old),
            CallOutput::Done | CallOutput::RoundTrip(_) => Reply::Done,
        }))
    }
}
