//! Sending the replies.

use super::deferral::PART;
use super::{Connection, Mode, NextStep};
use crate::server::executor::Executor;
use nix::errno::Errno;
use nix::poll::PollFlags;

impl Connection {
    /// Sends all replies. `Err` says what to wait for when some are left.
    pub(super) fn flush(&mut self, executor: &Executor, mode: Mode) -> Result<(), NextStep> {
        while !self.output.is_empty() {
            match self.send(executor, mode)? {
                Ok(sent) if sent == self.output.len() => self.output.consume(sent),
                // A blocking send returns after a tick with what was sent: without this check, a
                // slow reader would keep this loop forever.
                Ok(sent) => {
                    self.output.consume(sent);
                    self.held.moved(sent);
                    self.expect_output_taken(executor)?;
                    if mode == Mode::Shared && sent == PART {
                        self.deferral.set_long();
                        return Err(NextStep::Again);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.expect_output_taken(executor)?;
                    return Err(NextStep::Write);
                }
                Err(_) => return Err(NextStep::Close),
            }
        }
        if self.answered > 0 {
            executor
                .counters()
                .served(self.answered, self.batch_began.elapsed());
            self.answered = 0;
            self.deadlines.output = None;
        }
        Ok(())
    }

    /// Sends what the socket takes. While the thread waits for a client that is already late, other
    /// connections may take its buffer memory.
    #[inline]
    fn send(&mut self, executor: &Executor, mode: Mode) -> Result<nix::Result<usize>, NextStep> {
        let is_late = mode == Mode::Blocking && self.deadlines.output.is_some();
        if is_late {
            self.wait(PollFlags::POLLOUT);
        }
        let replies = self.output.as_slice();
        let part = match mode {
            Mode::Blocking => replies,
            Mode::Shared => &replies[..replies.len().min(PART)],
        };
        let sent = self.socket.send(part, mode.flags());
        if is_late {
            self.regain(executor)?;
        }
        Ok(sent)
    }
}
