//! Executes the requests that were received together, and collects their replies to be sent
//! together.

use super::direct_receive::DirectReceive;
use super::{Connection, Mode};
use crate::server::buffer::{BASE, OutOfMemory};
use crate::server::executor::Executor;
use crate::server::reply::{Outcome, busy};
use crate::server::request_handler::RequestPayload;
use dsm_core::layout::MAX_ATOMIC;
use dsm_core::protocol::{HEADER, MemoryRange, Opcode, RequestHeader, split_request};
use std::time::Instant;

/// The work of a batch, in bytes that its requests read or change. After that much, replies are
/// sent and the clock is checked although more requests are queued: after 128 requests, or one
/// request more than this many bytes.
const BATCH_WORK: usize = 256 << 10;

/// The fixed cost of a request: it takes about as long as copying this many bytes.
const REQUEST_COST: usize = 2 << 10;

/// Requests whose memory is prefetched before the first of them is executed: somewhat more than the
/// cache lines that a processor loads at the same time.
const PREFETCH: u32 = 16;

/// Why a batch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Batch {
    /// No complete request is left.
    Done,
    /// The replies must be sent, and other connections may be due.
    Full,
    /// The next request waits for the end of a freeze. It is still in the input.
    Parked,
    /// The next request is long, and short ones of other connections come first.
    Deferred,
}

impl Connection {
    /// Executes the complete requests in the input.
    pub(super) fn execute_batch(&mut self, executor: &mut Executor, mode: Mode) -> Batch {
        let (mut prefetched, mut work) = (0, 0);
        // Data that was read is counted by the replies that hold it.
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
            // At most MAX_PAYLOAD: split_request has checked it.
            let length = header.payload.get() as usize;
            let (frame, payload) = match &self.direct_receive {
                DirectReceive::Partial(missing) => (
                    HEADER,
                    missing.is_empty().then_some(RequestPayload::InSlot(length)),
                ),
                _ => (
                    HEADER + length,
                    rest.get(..length).map(RequestPayload::Buffered),
                ),
            };
            let Some(payload) = payload else {
                self.expect_rest(executor, &header, frame);
                return Batch::Done;
            };
            if mode == Mode::Shared {
                let (opcode, operand) = (header.opcode, header.operand.get());
                if self.deferral.defers(opcode, operand, &mut self.output) {
                    return Batch::Deferred;
                }
            }
            work += REQUEST_COST + length + extra_work(&header);
            let outcome = self
                .handler
                .handle(executor, &header, payload, &mut self.output);
            // It came in time, also if it is parked.
            self.deadlines.input = None;
            if outcome == Outcome::Park {
                return Batch::Parked;
            }
            self.input.consume(frame);
            self.direct_receive = if mode == Mode::Blocking && self.input.is_empty() {
                DirectReceive::after(&header)
            } else {
                DirectReceive::Off
            };
            self.answered += 1;
            if outcome == Outcome::Close {
                self.end();
                return Batch::Done;
            }
        }
        Batch::Full
    }

    /// Prefetches into the cache the memory of the next requests while the first of them is
    /// executed. Returns the number of requests it looked at.
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
            executor.worker.prefetch(header.offset.get(), length);
            rest = tail.get(payload..).unwrap_or_default();
        }
        PREFETCH
    }

    /// As [`Connection::expect_bytes`], for a frame whose header is there.
    #[cold]
    fn expect_rest(&mut self, executor: &Executor, header: &RequestHeader, frame: usize) {
        match self.handler.check_header(header) {
            Ok(()) => self.expect_bytes(executor, frame),
            Err(refusal) => self.refuse(executor, &refusal),
        }
    }

    /// Makes room for the rest of a frame, and starts or checks the deadline for its completion.
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
        match self.deadlines.input {
            None if !self.input.is_empty() => {
                self.deadlines.input =
                    Some(Instant::now() + executor.context.limits.request_timeout());
            }
            // A client that sends a byte now and then never lets the receive reach its own timeout,
            // so the deadline is checked here. Not before the first receive of a turn: the rest may
            // already be in the socket.
            Some(deadline) if self.has_received && Instant::now() >= deadline => {
                self.refuse_as_too_slow(executor);
            }
            _ => {}
        }
    }
}

/// The work of a request beyond its payload and its reply, as its header states it. The header is
/// not validated yet.
#[inline]
fn extra_work(header: &RequestHeader) -> usize {
    match Opcode::from_number(header.opcode) {
        // Adds up all counters of all threads and formats them as JSON.
        Some(Opcode::Status) => BATCH_WORK,
        // At most MAX_ATOMIC, which fits a usize: a longer request is refused.
        #[allow(clippy::cast_possible_truncation)]
        Some(opcode) if opcode.mutates() && opcode.entry().range == MemoryRange::Operand => {
            header.operand.get().min(MAX_ATOMIC) as usize
        }
        _ => 0,
    }
}
