//! The work for one server that one call asks for: cut into requests, and put together from
//! replies.

use super::error::{Effect, Error};
use dsm_core::layout::MAX_ATOMIC;
use dsm_core::protocol::{AtomicOperation, Extent, Opcode, Operation, Refusal, Word};
use std::time::{Duration, Instant};

/// What a ping carries there and back.
const PING: &[u8; 8] = b"dsm ping";

/// What is to be done with the piece, and where the data is.
#[derive(Debug)]
pub(super) enum Work<'a> {
    /// Read into memory of its own.
    Read(Vec<u8>),
    /// Read into the caller's memory.
    ReadInto(&'a mut [u8]),
    Write(&'a [u8]),
    Fill(u8),
    Atomic(AtomicOperation),
    /// Copy inside the segment from this offset; from the last byte to the first when `backward`.
    Copy {
        from: u64,
        backward: bool,
    },
    Status(Vec<u8>),
    /// When it was encoded, and the bytes that came back.
    Ping(Option<Instant>, [u8; PING.len()]),
}

/// What a job that succeeded has found.
#[derive(Debug)]
pub(super) enum Value {
    Done,
    Data(Vec<u8>),
    Old(u64),
    RoundTrip(Duration),
}

/// One piece of one call.
#[derive(Debug)]
pub(super) struct Job<'a> {
    work: Work<'a>,
    offset: u64,
    length: u64,
    /// First byte, counted from the job's first, that is not yet part of a request; `None` when
    /// nothing is left to cut.
    next: Option<u64>,
    unanswered: usize,
    value: Value,
    error: Option<Error>,
    /// Whether a part of it was carried out.
    is_begun: bool,
}

impl<'a> Job<'a> {
    /// Work on `length` bytes at `offset` of the server's segment; both are zero for what is about
    /// no range.
    pub(super) fn new(work: Work<'a>, offset: u64, length: u64) -> Self {
        Self {
            work,
            offset,
            length,
            next: Some(0),
            unanswered: 0,
            value: Value::Done,
            error: None,
            is_begun: false,
        }
    }

    pub(super) fn work(&self) -> &Work<'a> {
        &self.work
    }

    pub(super) fn opcode(&self) -> Opcode {
        match &self.work {
            Work::Read(_) | Work::ReadInto(_) => Opcode::Read,
            Work::Write(_) => Opcode::Write,
            Work::Fill(_) => Opcode::Fill,
            Work::Atomic(atomic) => atomic.opcode(),
            Work::Copy { .. } => Opcode::Copy,
            Work::Status(_) => Opcode::Status,
            Work::Ping(..) => Opcode::Ping,
        }
    }

    /// Bytes of the next request to cut; `None` when there is none.
    pub(super) fn next_length(&self) -> Option<u64> {
        self.next.map(|next| (self.length - next).min(MAX_ATOMIC))
    }

    /// The next request to cut: its first byte, counted from the job's first, and its bytes.
    pub(super) fn peek(&self) -> Option<(u64, u64)> {
        let (next, length) = (self.next?, self.next_length()?);
        let backward = matches!(self.work, Work::Copy { backward: true, .. });
        Some((
            if backward {
                self.length - (next + length)
            } else {
                next
            },
            length,
        ))
    }

    /// Cuts the next request.
    pub(super) fn cut(&mut self) -> Option<(u64, u64)> {
        let part = self.peek()?;
        self.advance(part.1);
        self.unanswered += 1;
        Some(part)
    }

    fn advance(&mut self, length: u64) {
        let end = self.next.map(|next| next + length);
        self.next = end.filter(|end| *end < self.length);
    }

    /// The next request needs not be cut: it was carried out without being sent, and `value` is
    /// what came of it.
    pub(super) fn done_at_once(&mut self, value: u64) {
        if let Some(length) = self.next_length() {
            self.advance(length);
        }
        self.is_begun = true;
        if let Work::Atomic(_) = self.work {
            self.value = Value::Old(value);
        }
    }

    /// The request for a part that was cut, for a segment of `k` bytes.
    pub(super) fn operation(
        &self,
        position: u64,
        length: u64,
        k: u64,
    ) -> Result<Operation<'a>, Refusal> {
        let extent = Extent::new(self.offset + position, length, k)?;
        Ok(match &self.work {
            Work::Read(_) | Work::ReadInto(_) => Operation::Read(extent),
            Work::Write(data) => {
                Operation::Write(extent, &data[index(position)..index(position + length)])
            }
            Work::Fill(byte) => Operation::Fill(extent, *byte),
            Work::Atomic(atomic) => Operation::Atomic(Word::new(self.offset, k)?, *atomic),
            Work::Copy { from, .. } => Operation::Copy {
                from: Extent::new(from + position, length, k)?,
                to: extent,
            },
            Work::Status(_) => Operation::Status,
            Work::Ping(..) => Operation::Ping(PING),
        })
    }

    /// A request of this job goes out now.
    pub(super) fn going_out(&mut self) {
        if let Work::Ping(at, _) = &mut self.work {
            *at = Some(Instant::now());
        }
    }

    /// The payload that a reply must have, in bytes, to the part of `length` bytes; `None` when any
    /// will do.
    pub(super) fn reply_length(&self, length: u64) -> Option<u64> {
        match &self.work {
            Work::Read(_) | Work::ReadInto(_) => Some(length),
            Work::Status(_) => None,
            Work::Ping(_, echo) => Some(echo.len() as u64),
            _ => Some(0),
        }
    }

    /// Where the payload of a reply goes, `length` bytes of it.
    pub(super) fn sink(&mut self, position: u64, length: usize) -> &mut [u8] {
        let (start, end) = (index(position), index(position) + length);
        match &mut self.work {
            Work::Read(data) | Work::Status(data) => {
                if data.len() < end {
                    data.resize(end, 0);
                }
                &mut data[start..end]
            }
            Work::ReadInto(buffer) => &mut buffer[start..end],
            Work::Ping(_, echo) => &mut echo[start..end],
            _ => &mut [],
        }
    }

    /// A part was answered with success; `value` is the reply's.
    ///
    /// # Errors
    /// What is wrong with the reply.
    pub(super) fn part_done(&mut self, value: u64) -> Result<(), String> {
        self.unanswered -= 1;
        self.is_begun = true;
        match &mut self.work {
            Work::Atomic(_) => self.value = Value::Old(value),
            Work::Ping(at, echo) => {
                if echo != PING {
                    return Err("the payload of a ping came back changed".into());
                }
                self.value = Value::RoundTrip(at.map_or(Duration::ZERO, |at| at.elapsed()));
            }
            _ => {}
        }
        Ok(())
    }

    /// A part failed: no further ones are cut.
    pub(super) fn part_failed(&mut self, error: Error) {
        self.unanswered -= 1;
        self.fail(error);
    }

    /// Something else failed that makes it useless to go on.
    pub(super) fn fail(&mut self, error: Error) {
        self.next = None;
        self.error = Some(match self.error.take() {
            Some(earlier) => earlier.or_graver(error),
            None => error,
        });
    }

    /// Whether every part was cut and has its outcome.
    pub(super) fn is_finished(&self) -> bool {
        self.next.is_none() && self.unanswered == 0
    }

    /// What came of it.
    pub(super) fn outcome(self) -> Result<Value, Error> {
        let mutates = self.opcode().mutates();
        match (self.error, self.work) {
            (Some(error), _) if self.is_begun && mutates => {
                Err(error.with_effect(Effect::Possible))
            }
            (Some(error), _) => Err(error),
            (None, Work::Read(data) | Work::Status(data)) => Ok(Value::Data(data)),
            (None, _) => Ok(self.value),
        }
    }
}

/// A position in data that this process has in memory.
#[allow(clippy::cast_possible_truncation)] // No slice is longer than a usize can say.
fn index(position: u64) -> usize {
    position as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: u64 = 16 << 20;

    fn parts(job: &mut Job<'_>) -> Vec<(u64, u64)> {
        std::iter::from_fn(|| job.cut()).collect()
    }

    #[test]
    fn a_long_job_is_cut_into_the_longest_requests() {
        let mut job = Job::new(Work::Fill(1), 5, 2 * MAX_ATOMIC + 3);
        assert_eq!(
            parts(&mut job),
            [
                (0, MAX_ATOMIC),
                (MAX_ATOMIC, MAX_ATOMIC),
                (2 * MAX_ATOMIC, 3)
            ]
        );
        let Operation::Fill(extent, 1) = job.operation(2 * MAX_ATOMIC, 3, K).unwrap() else {
            panic!()
        };
        assert_eq!((extent.offset(), extent.length()), (5 + 2 * MAX_ATOMIC, 3));
        assert_eq!(
            parts(&mut Job::new(Work::Status(Vec::new()), 0, 0)),
            [(0, 0)]
        );
    }

    #[test]
    fn a_backward_copy_is_cut_from_the_end() {
        let mut job = Job::new(
            Work::Copy {
                from: 0,
                backward: true,
            },
            8,
            MAX_ATOMIC + 3,
        );
        assert_eq!(parts(&mut job), [(3, MAX_ATOMIC), (0, 3)]);
    }

    #[test]
    fn what_was_done_at_once_is_not_cut() {
        let mut job = Job::new(
            Work::Copy {
                from: 0,
                backward: true,
            },
            8,
            2 * MAX_ATOMIC + 3,
        );
        assert_eq!(job.peek(), Some((MAX_ATOMIC + 3, MAX_ATOMIC)));
        job.done_at_once(0);
        assert!(!job.is_finished());
        assert_eq!(parts(&mut job), [(3, MAX_ATOMIC), (0, 3)]);
        let mut job = Job::new(Work::Atomic(AtomicOperation::Add(1)), 8, 8);
        job.done_at_once(41);
        assert!(job.is_finished() && matches!(job.outcome(), Ok(Value::Old(41))));
    }

    #[test]
    fn a_failed_part_ends_the_cutting_and_awaits_the_others() {
        let mut job = Job::new(Work::Fill(1), 0, 3 * MAX_ATOMIC);
        job.cut();
        job.cut();
        job.part_failed(Error::no_room(1));
        assert!(!job.is_finished() && job.next_length().is_none());
        job.part_done(0).unwrap();
        assert!(job.is_finished());
        // The other part was carried out.
        assert_eq!(
            job.outcome().unwrap_err(),
            Error::no_room(1).with_effect(Effect::Possible)
        );
    }
}
