//! Receiving from the client.

use super::{Connection, Mode, polling};
use crate::server::executor::Executor;
use dsm_core::net::MsgFlags;
use nix::errno::Errno;
use nix::poll::PollFlags;
use std::time::Instant;

impl Connection {
    /// Receives into the input. In [`Mode::Blocking`] it waits for bytes.
    pub(super) fn receive(&mut self, executor: &mut Executor, mode: Mode) -> nix::Result<usize> {
        if mode == Mode::Blocking && self.polling.is_worthwhile() {
            if let Some(received) = self.poll(executor) {
                self.polling.hit();
                return received;
            }
            self.polling.missed();
        }
        let begun = Instant::now();
        let received = self.receive_with(executor, mode.flags());
        if mode == Mode::Blocking && received.is_ok() {
            self.polling.slept(begun.elapsed());
        }
        received
    }

    /// Polls for bytes without blocking, and yields the processor between tries. `None` when none
    /// arrive in time.
    fn poll(&mut self, executor: &mut Executor) -> Option<nix::Result<usize>> {
        let begun = Instant::now();
        loop {
            match self.receive_with(executor, Mode::Shared.flags()) {
                Err(Errno::EAGAIN) if begun.elapsed() >= polling::MAX_POLL => return None,
                Err(Errno::EAGAIN) => std::thread::yield_now(),
                received => return Some(received),
            }
        }
    }

    fn receive_with(&mut self, executor: &mut Executor, flags: MsgFlags) -> nix::Result<usize> {
        if let Some(slot) = self.direct_receive.room() {
            return self.receive_direct(executor, &slot, flags);
        }
        let is_late = self.begin_receive(flags);
        let room = self.input.room();
        let size = room.len();
        let count = self.socket.receive(room, flags);
        self.end_receive(executor, is_late)?;
        let count = count?;
        self.input.commit(count);
        self.received(count, size);
        Ok(count)
    }

    /// To be called before a receive. While a receive blocks on a client that is already late,
    /// other connections may take its buffer memory.
    #[inline]
    pub(super) fn begin_receive(&mut self, flags: MsgFlags) -> bool {
        let is_late = !flags.contains(MsgFlags::MSG_DONTWAIT) && self.held.is_late();
        if is_late {
            self.wait(PollFlags::POLLIN);
        }
        is_late
    }

    /// To be called after a receive. An error when others took the buffer memory.
    #[inline]
    pub(super) fn end_receive(&mut self, executor: &Executor, is_late: bool) -> nix::Result<()> {
        if is_late && self.regain(executor).is_err() {
            Err(Errno::ECONNRESET)
        } else {
            Ok(())
        }
    }

    /// Accounts for `count` bytes received into `room` bytes of space.
    pub(super) fn received(&mut self, count: usize, room: usize) {
        self.drained = count < room;
        self.has_received = true;
        self.held.moved(count);
        if !self.drained {
            self.input.widen();
        }
    }
}
