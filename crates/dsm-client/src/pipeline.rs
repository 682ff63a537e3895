//! Requests that are submitted without waiting for each; their outcomes are collected in the order
//! of submission.

use super::call::{Call, CallKind, CallOutput};
use super::driver::QueueDriver;
use super::error::{Effect, Error};
use super::local;
use super::pool::ClientState;
use super::pump::{CallTime, DeadlinePassed, pump};
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
    drivers: Vec<QueueDriver<'a>>,
    pub(super) submitted: VecDeque<SubmittedRequest>,
}

impl<'a> Pipeline<'a> {
    pub(super) fn new(shared: &Arc<ClientState>, timeout: Duration, local: LocalAccess) -> Self {
        Self {
            shared: Arc::clone(shared),
            timeout,
            deadline: None,
            local,
            drivers: Vec::new(),
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
        !self.drivers.iter().any(|driver| request.is_pending(driver))
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
                .drivers
                .iter()
                .any(|driver| driver.server() == server && driver.queue().is_busy())
            && self.shared.is_local(server)
    }

    fn push(&mut self, server: usize, call: Call<'a>, now: Instant) {
        let index = self
            .drivers
            .iter()
            .position(|driver| driver.server() == server)
            .unwrap_or_else(|| {
                self.drivers
                    .push(QueueDriver::new(&self.shared, server, now));
                self.drivers.len() - 1
            });
        let driver = &mut self.drivers[index];
        driver.leave_parent(now);
        if !driver.queue().is_busy() && self.shared.has_abandoned(server) {
            // What a connection that is open already reads might not be final.
            driver.reset(now);
        }
        driver.submit(call);
        driver.maybe_send(now);
    }

    /// Waits while the queue of one of the servers is full. Returns the time, which is `now` if it
    /// did not wait.
    fn make_room(&mut self, servers: Range<usize>, now: Instant) -> Result<Instant, Error> {
        let is_full = |driver: &QueueDriver<'_>| {
            servers.contains(&driver.server()) && driver.queue().is_full()
        };
        if !self.drivers.iter().any(is_full) {
            return Ok(now);
        }
        let is_crowded = |driver: &QueueDriver<'_>| {
            servers.contains(&driver.server()) && !driver.queue().is_relieved()
        };
        let time = self.call_time(now);
        pump(&mut self.drivers, time, is_crowded).map_err(|DeadlinePassed { server }| {
            let reason = format!("it made no room within {:?}", self.timeout);
            self.shared.name(server).unavailable(reason)
        })
    }

    fn call_time(&self, now: Instant) -> CallTime {
        CallTime {
            now,
            deadline: self.deadline.unwrap_or(now + self.timeout),
            timeout: self.timeout,
        }
    }

    /// Waits for the outcome of the oldest request.
    pub(super) fn collect_next(&mut self) -> Option<Result<CallOutput, Error>> {
        let request = self.submitted.pop_front()?;
        if request.reads && request.servers.is_empty() {
            return Some(Ok(CallOutput::Data(Vec::new())));
        }
        let time = self.call_time(Instant::now());
        // After the deadline, the outcome is the error that says so.
        let _ = pump(&mut self.drivers, time, |driver| request.is_pending(driver));
        let mut done = request.done.into_iter().peekable();
        let mut outcome = Ok(CallOutput::Done);
        let mut is_partly_done = false;
        for server in request.servers {
            let part = match done.next_if(|(of, _)| *of == server) {
                Some((_, part)) => Some(part),
                None => self
                    .drivers
                    .iter_mut()
                    .find(|driver| driver.server() == server)
                    .and_then(QueueDriver::take),
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
