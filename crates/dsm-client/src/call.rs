//! What one call of the library asks of one server: it is split into requests, and its outcome is
//! put together from their replies.

use super::error::{Effect, Error};
use dsm_core::layout::MAX_ATOMIC;
use dsm_core::protocol::{
    AtomicOperation, Extent, MemoryChange, MemoryOperation, Opcode, Refusal, Request, Word,
};
use std::time::{Duration, Instant};

/// What a ping carries there and back.
const PING: &[u8; 8] = b"dsm ping";

/// What a call does with its piece of the memory, and where the data is.
#[derive(Debug)]
pub(super) enum CallKind<'a> {
    /// Read into a buffer that the call allocates.
    Read(Vec<u8>),
    /// Read into the caller's buffer.
    ReadInto(&'a mut [u8]),
    Write(&'a [u8]),
    Fill(u8),
    Atomic(AtomicOperation),
    /// Copy inside the segment from this offset; from the last byte to the first if `backward`.
    Copy {
        from: u64,
        backward: bool,
    },
    Status(Vec<u8>),
    /// When the request was encoded, and the bytes that came back.
    Ping(Option<Instant>, [u8; PING.len()]),
}

/// What a call that succeeded returns.
#[derive(Debug)]
pub(super) enum CallOutput {
    Done,
    Data(Vec<u8>),
    Old(u64),
    RoundTrip(Duration),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Call<'a> {
    kind: CallKind<'a>,
    offset: u64,
    length: u64,
    /// The first byte, counted from the call's first, that is not yet part of a request; `None`
    /// when every byte is part of one.
    next: Option<u64>,
    unanswered: usize,
    output: CallOutput,
    error: Option<Error>,
    /// Whether a part of it was carried out.
    is_partly_done: bool,
}

impl<'a> Call<'a> {
    /// A call about `length` bytes at `offset` of the server's segment; both are zero where it is
    /// about no range.
    pub(super) fn new(kind: CallKind<'a>, offset: u64, length: u64) -> Self {
        Self {
            kind,
            offset,
            length,
            next: Some(0),
            unanswered: 0,
            output: CallOutput::Done,
            error: None,
            is_partly_done: false,
        }
    }

    pub(super) fn kind(&self) -> &CallKind<'a> {
        &self.kind
    }

    pub(super) fn opcode(&self) -> Opcode {
        match &self.kind {
            CallKind::Read(_) | CallKind::ReadInto(_) => Opcode::Read,
            CallKind::Write(_) => Opcode::Write,
            CallKind::Fill(_) => Opcode::Fill,
            CallKind::Atomic(atomic) => atomic.opcode(),
            CallKind::Copy { .. } => Opcode::Copy,
            CallKind::Status(_) => Opcode::Status,
            CallKind::Ping(..) => Opcode::Ping,
        }
    }

    /// Bytes of the next request; `None` when there is none.
    pub(super) fn next_length(&self) -> Option<u64> {
        self.next.map(|next| (self.length - next).min(MAX_ATOMIC))
    }

    /// The next request: its first byte, counted from the call's first, and its length.
    pub(super) fn peek(&self) -> Option<(u64, u64)> {
        let (next, length) = (self.next?, self.next_length()?);
        let backward = matches!(self.kind, CallKind::Copy { backward: true, .. });
        Some((
            if backward {
                self.length - (next + length)
            } else {
                next
            },
            length,
        ))
    }

    /// Splits off the next request.
    pub(super) fn split(&mut self) -> Option<(u64, u64)> {
        let part = self.peek()?;
        self.advance(part.1);
        self.unanswered += 1;
        Some(part)
    }

    fn advance(&mut self, length: u64) {
        let end = self.next.map(|next| next + length);
        self.next = end.filter(|end| *end < self.length);
    }

    /// The next request was carried out in shared memory, and need not be sent; `value` is what an
    /// atomic found.
    pub(super) fn completed_locally(&mut self, value: u64) {
        if let Some(length) = self.next_length() {
            self.advance(length);
        }
        self.is_partly_done = true;
        if let CallKind::Atomic(_) = self.kind {
            self.output = CallOutput::Old(value);
        }
    }

    /// The request for a part that was split off, for a segment of `k` bytes.
    pub(super) fn request(
        &self,
        position: u64,
        length: u64,
        k: u64,
    ) -> Result<Request<'a>, Refusal> {
        let extent = Extent::new(self.offset + position, length, k)?;
        Ok(match &self.kind {
            CallKind::Read(_) | CallKind::ReadInto(_) => MemoryOperation::Read(extent).into(),
            CallKind::Write(data) => {
                let data = &data[index(position)..index(position + length)];
                MemoryChange::Write(extent, data).into()
            }
            CallKind::Fill(byte) => MemoryChange::Fill(extent, *byte).into(),
            CallKind::Atomic(atomic) => {
                MemoryChange::Atomic(Word::new(self.offset, k)?, *atomic).into()
            }
            CallKind::Copy { from, .. } => MemoryChange::Copy {
                from: Extent::new(from + position, length, k)?,
                to: extent,
            }
            .into(),
            CallKind::Status(_) => Request::Status,
            CallKind::Ping(..) => Request::Ping(PING),
        })
    }

    /// Notes when the request of a ping is sent.
    pub(super) fn note_sent(&mut self, now: Instant) {
        if let CallKind::Ping(at, _) = &mut self.kind {
            *at = Some(now);
        }
    }

    /// The bytes of payload that the reply to a part of `length` bytes must have; `None` where any
    /// number is right.
    pub(super) fn reply_length(&self, length: u64) -> Option<u64> {
        match &self.kind {
            CallKind::Read(_) | CallKind::ReadInto(_) => Some(length),
            CallKind::Status(_) => None,
            CallKind::Ping(_, echo) => Some(echo.len() as u64),
            _ => Some(0),
        }
    }

    /// Where `length` bytes of the payload of a reply go.
    pub(super) fn target(&mut self, position: u64, length: usize) -> &mut [u8] {
        let (start, end) = (index(position), index(position) + length);
        match &mut self.kind {
            CallKind::Read(data) | CallKind::Status(data) => {
                if data.len() < end {
                    data.resize(end, 0);
                }
                &mut data[start..end]
            }
            CallKind::ReadInto(buffer) => &mut buffer[start..end],
            CallKind::Ping(_, echo) => &mut echo[start..end],
            _ => &mut [],
        }
    }

    /// A part succeeded, and its reply came `now`; `value` is the reply's.
    ///
    /// # Errors
    /// What is wrong with the reply.
    #[inline]
    pub(super) fn part_succeeded(&mut self, value: u64, now: Instant) -> Result<(), String> {
        self.unanswered -= 1;
        self.is_partly_done = true;
        match &mut self.kind {
            CallKind::Atomic(_) => self.output = CallOutput::Old(value),
            CallKind::Ping(at, echo) => {
                if echo != PING {
                    return Err("the payload of a ping came back changed".into());
                }
                let time = at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
                self.output = CallOutput::RoundTrip(time);
            }
            _ => {}
        }
        Ok(())
    }

    /// A part failed: no further request is made.
    pub(super) fn part_failed(&mut self, error: Error) {
        self.unanswered -= 1;
        self.fail(error);
    }

    /// The whole call fails: no further request is made.
    pub(super) fn fail(&mut self, error: Error) {
        self.next = None;
        self.error = Some(match self.error.take() {
            Some(earlier) => earlier.or_graver(error),
            None => error,
        });
    }

    /// Whether every part was sent and has its outcome.
    pub(super) fn is_finished(&self) -> bool {
        self.next.is_none() && self.unanswered == 0
    }

    /// What the call returns. An error of a change of which a part was carried out says that it may
    /// have had an effect.
    pub(super) fn outcome(self) -> Result<CallOutput, Error> {
        let mutates = self.opcode().mutates();
        match (self.error, self.kind) {
            (Some(error), _) if self.is_partly_done && mutates => {
                Err(error.with_effect(Effect::Possible))
            }
            (Some(error), _) => Err(error),
            (None, CallKind::Read(data) | CallKind::Status(data)) => Ok(CallOutput::Data(data)),
            (None, _) => Ok(self.output),
        }
    }
}

/// A position in data that this process has in memory.
#[allow(clippy::cast_possible_truncation)] // the data is in memory
fn index(position: u64) -> usize {
    position as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: u64 = 16 << 20;

    fn parts(call: &mut Call<'_>) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| call.split()).collect()
    }

    #[test]
    fn a_long_call_is_split_into_the_longest_requests() {
        let mut call = Call::new(CallKind::Fill(1), 5, 2 * MAX_ATOMIC + 3);
        assert_eq!(
            parts(&mut call),
            [
                (0, MAX_ATOMIC),
                (MAX_ATOMIC, MAX_ATOMIC),
                (2 * MAX_ATOMIC, 3)
            ]
        );
        let last = Extent::new(5 + 2 * MAX_ATOMIC, 3, K).unwrap();
        assert_eq!(
            call.request(2 * MAX_ATOMIC, 3, K).unwrap(),
            MemoryChange::Fill(last, 1).into()
        );
        assert_eq!(
            parts(&mut Call::new(CallKind::Status(Vec::new()), 0, 0)),
            [(0, 0)]
        );
    }

    #[test]
    fn a_backward_copy_is_split_from_the_end() {
        let mut call = Call::new(
            CallKind::Copy {
                from: 0,
                backward: true,
            },
            8,
            MAX_ATOMIC + 3,
        );
        assert_eq!(parts(&mut call), [(3, MAX_ATOMIC), (0, 3)]);
    }

    #[test]
    fn what_was_carried_out_locally_is_not_sent() {
        let mut call = Call::new(
            CallKind::Copy {
                from: 0,
                backward: true,
            },
            8,
            2 * MAX_ATOMIC + 3,
        );
        assert_eq!(call.peek(), Some((MAX_ATOMIC + 3, MAX_ATOMIC)));
        call.completed_locally(0);
        assert!(!call.is_finished());
        assert_eq!(parts(&mut call), [(3, MAX_ATOMIC), (0, 3)]);
        let mut call = Call::new(CallKind::Atomic(AtomicOperation::Add(1)), 8, 8);
        call.completed_locally(41);
        assert!(call.is_finished() && matches!(call.outcome(), Ok(CallOutput::Old(41))));
    }

    #[test]
    fn a_failed_part_ends_the_call_when_the_others_have_their_outcome() {
        let mut call = Call::new(CallKind::Fill(1), 0, 3 * MAX_ATOMIC);
        call.split();
        call.split();
        call.part_failed(Error::no_room(1));
        assert!(!call.is_finished() && call.next_length().is_none());
        call.part_succeeded(0, Instant::now()).unwrap();
        assert!(call.is_finished());
        // The other part was carried out.
        assert_eq!(
            call.outcome().unwrap_err(),
            Error::no_room(1).with_effect(Effect::Possible)
        );
    }
}
