//! Data of long writes that comes from the socket straight into the slot of the thread's worker,
//! where a write has to put it anyway: one copy less.
//!
//! Only on a thread that serves one connection, because what has come of the data stays in the slot
//! until the rest comes. Where data begins is not known before its header has come, so it is the
//! next write after a long one that lands.

use super::Connection;
use crate::server::request_handler::{Executor, busy};
use dsm_core::protocol::{HEADER, Opcode, RequestHeader, split_request};
use dsm_core::segment::SLOT;
use nix::sys::socket::MsgFlags;
use std::ops::Range;

/// Bytes of the data that make a write long: shorter ones are copied as quickly.
const LONG: usize = 16 << 10;

/// Where the data of the next request goes.
#[derive(Debug, Default)]
pub(super) enum DirectReceive {
    /// Into the input, as all that comes.
    #[default]
    Off,
    /// Behind a header's worth of bytes, into the slot: the input is empty, and what comes is
    /// expected to be a write of so many bytes, as the request before was.
    Expected(usize),
    /// Into the slot: the input begins with the header of a write, and these bytes of its data have
    /// not come yet. If there are any, nothing else is in the input.
    Partial(Range<usize>),
}

impl DirectReceive {
    /// What to expect after this request, when nothing of the next has come.
    #[inline]
    pub(super) fn after(header: &RequestHeader) -> Self {
        long_write(header).map_or(Self::Off, Self::Expected)
    }

    /// Where the next bytes go in the slot.
    #[inline]
    pub(super) fn room(&self) -> Option<Range<usize>> {
        match self {
            Self::Off => None,
            Self::Expected(length) => Some(0..*length),
            Self::Partial(missing) => Some(missing.clone()),
        }
    }
}

/// Bytes of data if this is the header of a write that can land.
#[inline]
fn long_write(header: &RequestHeader) -> Option<usize> {
    let length = header.payload.get() as usize;
    ((LONG..=SLOT).contains(&length) && header.opcode == Opcode::Write as u8).then_some(length)
}

impl Connection {
    /// Receives, first the header if it has not come yet, then to these bytes of the slot, then
    /// what comes after that request.
    pub(super) fn receive_direct(
        &mut self,
        executor: &mut Executor,
        slot: &Range<usize>,
        flags: MsgFlags,
    ) -> nix::Result<usize> {
        let is_late = self.begin_receive(flags);
        let head = HEADER - self.input.len();
        let (header, rest) = self.input.room().split_at_mut(head);
        let room = head + slot.len() + rest.len();
        let count = executor
            .worker
            .receive(&*self.socket, header, slot, rest, flags);
        self.end_receive(executor, is_late)?;
        let count = count?;
        let received = count.saturating_sub(head).min(slot.len());
        self.input.commit(count - received);
        self.received(count, room);

        let received = slot.start + received;
        let length = match split_request(self.input.as_slice()) {
            Ok(Some((header, _))) => long_write(&header),
            _ => None,
        };
        match length {
            Some(length) if received == length || received < length && self.input.len() == HEADER => {
                self.direct_receive = DirectReceive::Partial(received..length);
            }
            _ => self.spill(executor, received),
        }
        Ok(count)
    }

    /// The connection gets another thread: what has come goes with it.
    pub(in crate::server) fn leave(&mut self, executor: &Executor) {
        let received = if let DirectReceive::Partial(missing) = &self.direct_receive {
            missing.start
        } else {
            0
        };
        // Else its buffers are empty, and the other thread finds it closed.
        if self.regain(executor).is_ok() {
            self.spill(executor, received);
        }
    }

    /// Moves what has been received to where it belongs in the input, behind the header.
    fn spill(&mut self, executor: &Executor, received: usize) {
        self.direct_receive = DirectReceive::Off;
        match self.input.insert(HEADER.min(self.input.len()), received) {
            Ok(gap) => executor.worker.copy_received(gap),
            Err(out_of_memory) => self.refuse(executor, &busy(out_of_memory)),
        }
    }
}
