//! How long the server waits for the client: for the rest of a request, and until the client takes
//! its replies.

use super::{Connection, ConnectionPhase, NextStep};
use crate::server::executor::Executor;
use crate::server::reply::superseded;
use dsm_core::protocol::{Code, Refusal};
use nix::poll::PollFlags;
use std::time::Instant;

/// The deadlines that run; `None` while the server does not wait.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// When the client must have completed its hello, or the request that it began to send.
    pub(super) input: Option<Instant>,
    /// When the client must have read the replies.
    pub(super) output: Option<Instant>,
}

impl Connection {
    /// To be called at least every [`TICK`](super::TICK) while the connection waits. `Some` when a deadline has
    /// passed: whether to drive the connection again or to close it.
    pub(in crate::server) fn expire(
        &mut self,
        executor: &Executor,
        now: Instant,
    ) -> Option<NextStep> {
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| now >= deadline);
        // A socket that is ready means that the client was in time and the thread has not served it
        // yet; the thread checks the deadline again when it does.
        let is_untaken = passed(self.deadlines.output)
            && (self.phase == ConnectionPhase::Discarding
                || !self.socket.is_ready(PollFlags::POLLOUT));
        let is_late = self.phase == ConnectionPhase::Open
            && passed(self.deadlines.input)
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

    pub(super) fn refuse_as_too_slow(&mut self, executor: &Executor) {
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

    /// The client has not read all replies. It has until the deadline, which starts now if none is
    /// running.
    pub(super) fn expect_output_taken(&mut self, executor: &Executor) -> Result<(), NextStep> {
        let now = Instant::now();
        let deadline = *self
            .deadlines
            .output
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
}
