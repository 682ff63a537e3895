//! What a connection keeps of the buffer memory while its peer is waited for, and may lose.

use super::{Connection, NextStep};
use crate::server::buffer::Budget;
use crate::server::request_handler::Executor;
use crate::server::holders::{Holder, PROGRESS, STALLED};
use nix::poll::PollFlags;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// See the module.
pub(super) struct HeldMemory {
    budget: Arc<Budget>,
    /// Names the connection to the budget.
    number: u64,
    peer: IpAddr,
    /// The budget knows of it, and may give its memory to others.
    is_registered: bool,
    /// It has kept memory from one wait for the peer to the next since.
    since: Option<Instant>,
    /// Bytes that have come or gone since then.
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

    /// The peer has sent or taken so much.
    #[inline]
    pub(super) fn moved(&mut self, bytes: usize) {
        self.moved += bytes;
    }

    /// Whether the peer has been waited for so long that it should not keep its memory through
    /// another wait.
    #[inline]
    pub(super) fn is_late(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= STALLED)
    }
}

impl Connection {
    /// The thread turns to others until what is `next` happens: what the buffers keep may go to
    /// others too. Nothing is done with the buffers before [`Connection::regain`].
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
        // It is not the peer that is waited for if there is work, or the memory is frozen.
        if !matches!(next, NextStep::Read | NextStep::Write) {
            self.held.since = None;
        }
        self.input.fit();
        self.output.fit();
        self.wait(if next == NextStep::Write {
            PollFlags::POLLOUT
        } else {
            PollFlags::POLLIN
        });
    }

    /// As [`Connection::hold`], with the buffers as they are: the thread itself waits for the peer.
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

    /// The buffers are needed again. `Err` when they were lost: then the connection is to be
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
        if executor.context.log_gate.opens() {
            let (peer, since) = (self.handler.peer(), self.held.since);
            log::info!(
                DSM_SERVER = executor.context.index, DSM_CLIENT:% = peer;
                "closed {peer}: it has not taken its replies, or not sent the rest of a request, for {} ms, and others needed \
                 the memory of its buffers (limits.buffer_memory)",
                since.map_or(0, |since| since.elapsed().as_millis())
            );
        }
        Err(NextStep::Close)
    }

    /// Whether the buffers are still there; else they are empty now.
    fn regain_grown(&mut self) -> bool {
        self.held.is_registered = false;
        let is_there = self.held.budget.release(self.held.number);
        if !is_there {
            self.input.forfeit();
            self.output.forfeit();
        }
        is_there
    }

    /// To be called now and then while the thread waits for `next`: the budget may have become
    /// short since.
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
