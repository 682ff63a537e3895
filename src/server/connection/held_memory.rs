//! The buffer memory that a connection holds while the server waits for its peer. The budget may
//! take it for other connections; then the connection is closed.

use super::{Connection, NextStep};
use crate::server::buffer::Budget;
use crate::server::executor::Executor;
use crate::server::holders::{Holder, PROGRESS, STALLED};
use nix::poll::PollFlags;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// See the module's comment.
pub(super) struct HeldMemory {
    budget: Arc<Budget>,
    /// Identifies the connection in the budget.
    number: u64,
    peer: IpAddr,
    /// The memory is registered with the budget, which may take it.
    is_registered: bool,
    /// Since when the connection has held memory from one wait to the next without progress.
    since: Option<Instant>,
    /// Bytes received and sent since then.
    moved: usize,
}

impl HeldMemory {
    pub(super) fn new(budget: &Arc<Budget>, peer: IpAddr) -> Self {
        Self {
            budget: Arc::clone(budget),
            number: budget.number(),
            peer,
            is_registered: false,
            since: None,
            moved: 0,
        }
    }

    /// The peer has sent or read this many bytes.
    #[inline]
    pub(super) fn moved(&mut self, bytes: usize) {
        self.moved += bytes;
    }

    /// Whether the peer has stalled so long that others may take its memory during another wait.
    #[inline]
    pub(super) fn is_late(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= STALLED)
    }
}

impl Connection {
    /// Registers the held memory, so that others may take it until `next` happens. Call
    /// [`Connection::regain`] before using the buffers again.
    #[inline]
    pub(super) fn hold(&mut self, next: NextStep) {
        if self.input.budgeted() + self.output.budgeted() == 0 {
            self.held.since = None;
        } else {
            self.hold_grown(next);
        }
    }

    #[cold]
    fn hold_grown(&mut self, next: NextStep) {
        // With work left or the memory frozen, the peer is not the cause of the wait.
        if !matches!(next, NextStep::Read | NextStep::Write) {
            self.held.since = None;
        }
        self.input.fit();
        self.output.fit();
        // Also when a part of the replies was sent and the rest waits for the next turn: a socket
        // with room for more shows that the peer is not late.
        let awaits = if self.output.is_empty() {
            PollFlags::POLLIN
        } else {
            PollFlags::POLLOUT
        };
        if next == NextStep::Unfrozen {
            self.register(None, awaits);
        } else {
            self.wait(awaits);
        }
    }

    /// As [`Connection::hold`] without shrinking the buffers: the thread itself blocks on the peer.
    pub(super) fn wait(&mut self, awaits: PollFlags) {
        let held = &mut self.held;
        let now = Instant::now();
        if held.moved >= PROGRESS {
            held.since = None;
        }
        if held.since.is_none() {
            held.moved = 0;
        }
        let since = *held.since.get_or_insert(now);
        self.register(Some(since), awaits);
    }

    /// Lets the budget know what the connection holds, and since when it waits for the peer.
    fn register(&mut self, since: Option<Instant>, awaits: PollFlags) {
        let held = &mut self.held;
        let bytes = (self.input.budgeted() + self.output.budgeted()) as u64;
        if bytes > 0 {
            let holder = Holder {
                bytes,
                peer: held.peer,
                since,
                awaits,
                socket: Arc::clone(&self.socket),
            };
            held.budget.hold(held.number, holder);
            held.is_registered = true;
        }
    }

    /// Takes the buffers back. `Err` when others have taken their memory: the connection must be
    /// closed.
    #[inline]
    pub(super) fn regain(&mut self, executor: &Executor) -> Result<(), NextStep> {
        if self.held.is_registered {
            self.regain_or_close(executor)
        } else {
            Ok(())
        }
    }

    #[cold]
    fn regain_or_close(&mut self, executor: &Executor) -> Result<(), NextStep> {
        if self.regain_grown() {
            return Ok(());
        }
        if executor.context.log_limit.allows() {
            let (peer, since) = (self.handler.peer(), self.held.since);
            log::info!(
                DSM_SERVER = executor.context.index, DSM_CLIENT:% = peer;
                "closed {peer}: for {} ms it neither read its replies nor completed a request, and other connections needed \
                 the memory of its buffers (raise limits.buffer_memory)",
                since.map_or(0, |since| since.elapsed().as_millis())
            );
        }
        Err(NextStep::Close)
    }

    /// Whether the buffers still have their memory; otherwise they are empty now.
    fn regain_grown(&mut self) -> bool {
        self.held.is_registered = false;
        let is_there = self.held.budget.release(self.held.number);
        if !is_there {
            self.input.forfeit();
            self.output.forfeit();
        }
        is_there
    }

    /// To be called periodically while the thread waits for `next`: shrinks the buffers if buffer
    /// memory has become short.
    pub(super) fn fit(&mut self, executor: &Executor, next: NextStep) -> Result<(), NextStep> {
        if self.held.is_registered && self.held.budget.is_short() {
            self.regain(executor)?;
            self.hold(next);
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.held.is_registered {
            self.regain_grown();
        }
    }
}
