//! Receives the data of long writes from the socket directly into the slot of the thread's worker,
//! where the write needs it. This saves one copy.
//!
//! Only a thread that serves a single connection does this, because the data received so far stays
//! in the slot until the rest arrives. The position of the data is known only after the header, so
//! the write *after* a long write is received directly.

use super::Connection;
use crate::server::executor::Executor;
use crate::server::reply::busy;
use dsm_core::net::MsgFlags;
use dsm_core::protocol::{HEADER, Opcode, RequestHeader, split_request};
use dsm_core::segment::SLOT;
use std::ops::Range;

/// The shortest data received directly, in bytes: copying less takes no longer.
const LONG: usize = 16 << 10;

/// Where the next receive puts its bytes.
#[derive(Debug, Default)]
pub(super) enum DirectReceive {
    /// All of them into the input buffer.
    #[default]
    Off,
    /// A header into the input buffer, then this many bytes into the slot. The input is empty, and
    /// a write as long as the one before is expected.
    Expected(usize),
    /// The input begins with the header of a write; this range of its data is missing in the slot.
    /// While the range is not empty, the input holds only that header.
    Partial(Range<usize>),
}

impl DirectReceive {
    /// What to expect after this request, when the input is empty.
    #[inline]
    pub(super) fn after(header: &RequestHeader) -> Self {
        long_write(header).map_or(Self::Off, Self::Expected)
    }

    /// The range of the slot that the next bytes fill.
    #[inline]
    pub(super) fn room(&self) -> Option<Range<usize>> {
        match self {
            Self::Off => None,
            Self::Expected(length) => Some(0..*length),
            Self::Partial(missing) => Some(missing.clone()),
        }
    }
}

/// The data length if this is the header of a write that can be received directly.
#[inline]
fn long_write(header: &RequestHeader) -> Option<usize> {
    let length = header.payload.get() as usize;
    ((LONG..=SLOT).contains(&length) && header.opcode == Opcode::Write as u8).then_some(length)
}

impl Connection {
    /// Receives the header if it is missing, then this range of the slot, then what follows that
    /// request.
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
            .receive(self.socket.plain(), header, slot, rest, flags);
        self.end_receive(executor, is_late)?;
        let count = count?;
        let in_slot = count.saturating_sub(head).min(slot.len());
        self.input.commit(count - in_slot);
        self.received(count, room);

        let received = slot.start + in_slot;
        let length = match split_request(self.input.as_slice()) {
            Ok(Some((header, _))) => long_write(&header),
            _ => None,
        };
        match length {
            Some(length)
                if received == length || received < length && self.input.len() == HEADER =>
            {
                self.direct_receive = DirectReceive::Partial(received..length);
            }
            _ => self.spill(executor, received),
        }
        Ok(count)
    }

    /// Prepares the connection to move to another thread: the received data leaves this worker's
    /// slot with it.
    pub(in crate::server) fn leave(&mut self, executor: &Executor) {
        let received = if let DirectReceive::Partial(missing) = &self.direct_receive {
            missing.start
        } else {
            0
        };
        // If the buffers were lost they are empty, and the other thread finds the socket shut down.
        if self.regain(executor).is_ok() {
            self.spill(executor, received);
        }
    }

    /// Moves `received` bytes of data from the slot into the input, behind the header.
    fn spill(&mut self, executor: &Executor, received: usize) {
        self.direct_receive = DirectReceive::Off;
        match self.input.insert(HEADER.min(self.input.len()), received) {
            Ok(gap) => executor.worker.copy_received(gap),
            Err(out_of_memory) => self.refuse(executor, &busy(out_of_memory)),
        }
    }
}
