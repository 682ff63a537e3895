//! The requests that have come together: executed one after the other, and answered together.

use super::direct_receive::DirectReceive;
use super::{Connection, Mode};
use crate::server::buffer::{BASE, OutOfMemory};
use crate::server::request_handler::{AfterReply, Executor, RequestPayload, busy};
use dsm_core::layout::MAX_ATOMIC;
use dsm_core::protocol::{HEADER, Opcode, RequestHeader, split_request};
use std::time::Instant;

/// Replies are sent, and the clock is looked at, when this much work was done, though more requests
/// wait: bytes that requests are about. So a batch is over after 128 requests, or one request more
/// than this many bytes, and gathers no more replies.
const BATCH_WORK: usize = 256 << 10;

/// The work of a request beside its bytes: it takes about as long as to copy so many.
const REQUEST_COST: usize = 2 << 10;

/// Requests whose memory is fetched before the first of them is executed: some more than the cache
/// lines that a processor waits for at once.
const PREFETCH: u32 = 16;

/// Why no more requests are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Batch {
    /// There are no more.
    Done,
    /// Replies must be sent first, and others may have waited long enough.
    Full,
    /// The next one changes memory that stands still, and others wait for this thread.
    Frozen,
}

impl Connection {
    /// Executes the complete requests in the buffer.
    pub(super) fn execute_batch(&mut self, executor: &mut Executor, mode: Mode) -> Batch {
        let (mut prefetched, mut work) = (0, 0);
        // What was read is counted as the replies that hold it.
        while work + self.output.len() < BATCH_WORK {
            if prefetched == 0 {
                prefetched = self.prefetch(executor);
            }
            prefetched = prefetched.saturating_sub(1);
            let (header, rest) = match split_request(self.input.as_slice()) {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    self.expect_bytes(executor, HEADER);
                    return Batch::Done;
                }
                Err(refusal) => {
                    self.log_no_frame(executor, &refusal);
                    self.refuse(executor, &refusal);
                    return Batch::Done;
                }
            };
            // At most MAX_PAYLOAD, as split_request has checked.
            let length = header.payload.get() as usize;
            let (frame, payload) = match &self.direct_receive {
                DirectReceive::Partial(missing) => (
                    HEADER,
                    missing.is_empty().then_some(RequestPayload::InSlot(length)),
                ),
                _ => (HEADER + length, rest.get(..length).map(RequestPayload::Held)),
            };
            let Some(payload) = payload else {
                self.expect_rest(executor, &header, frame);
                return Batch::Done;
            };
            if mode == Mode::Shared && executor.worker.is_frozen() && mutates(&header) {
                return Batch::Frozen;
            }
            work += REQUEST_COST + length + extra_work(&header);
            let after = self
                .handler
                .answer(executor, &header, payload, &mut self.output);
            self.input.consume(frame);
            self.input_deadline = None;
            self.direct_receive = if mode == Mode::Blocking && self.input.is_empty() {
                DirectReceive::after(&header)
            } else {
                DirectReceive::Off
            };
            self.answered += 1;
            if after == AfterReply::Close {
                self.end();
                return Batch::Done;
            }
        }
        Batch::Full
    }

    /// Has the processor fetch the memory that the next requests are about, while the first of them
    /// is executed. Returns how many requests it looked at.
    fn prefetch(&self, executor: &Executor) -> u32 {
        let mut rest = self.input.as_slice();
        for count in 0..PREFETCH {
            let Ok(Some((header, tail))) = split_request(rest) else {
                return count;
            };
            let payload = header.payload.get() as usize;
            let reads = header.opcode == Opcode::Read as u8;
            let length = if reads {
                usize::try_from(header.operand.get()).unwrap_or(0)
            } else {
                payload
            };
            executor.worker.announce(header.offset.get(), length);
            rest = tail.get(payload..).unwrap_or_default();
        }
        PREFETCH
    }

    /// As [`Connection::expect_bytes`], of a frame whose header has come.
    #[cold]
    fn expect_rest(&mut self, executor: &Executor, header: &RequestHeader, frame: usize) {
        match self.handler.check_begun(header) {
            Ok(()) => self.expect_bytes(executor, frame),
            Err(refusal) => self.refuse(executor, &refusal),
        }
    }

    /// Makes room for more of a frame of which a part may be there, and sees to it that it is whole
    /// in time.
    fn expect_bytes(&mut self, executor: &Executor, frame: usize) {
        let room = if self.input.is_empty() {
            self.input.reserve(BASE)
        } else {
            self.input.expect(frame)
        };
        if room.is_err() {
            self.refuse(executor, &busy(OutOfMemory));
            return;
        }
        match self.input_deadline {
            None if !self.input.is_empty() => {
                self.input_deadline =
                    Some(Instant::now() + executor.context.limits.request_timeout());
            }
            // A client that sends a byte now and then never lets the receive run into its own time
            // limit. Before something is received, the rest may be there.
            Some(deadline) if self.has_received && Instant::now() >= deadline => {
                self.refuse_as_too_slow(executor)
            }
            _ => {}
        }
    }
}

/// What a request costs the others on this thread beside its data and its reply, as far as its
/// header says; nothing of it is believed yet.
#[inline]
fn extra_work(header: &RequestHeader) -> usize {
    const FILL: u8 = Opcode::Fill as u8;
    const COPY: u8 = Opcode::Copy as u8;
    const STATUS: u8 = Opcode::Status as u8;
    match header.opcode {
        // At most MAX_ATOMIC, which fits: what is longer is refused.
        #[allow(clippy::cast_possible_truncation)]
        FILL | COPY => header.operand.get().min(MAX_ATOMIC) as usize,
        // All counters of all threads are added up, and written as text.
        STATUS => BATCH_WORK,
        _ => 0,
    }
}

fn mutates(header: &RequestHeader) -> bool {
    Opcode::from_number(header.opcode).is_some_and(Opcode::mutates)
}
