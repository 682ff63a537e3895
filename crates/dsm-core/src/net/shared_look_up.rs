//! A look-up in a helper thread, as its callers see it.

use crate::sys::own_file::generation;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// The addresses of a name; an error as its kind and its text, because an [`io::Error`] cannot be
/// copied.
pub(super) type Answer = Result<Vec<SocketAddr>, (io::ErrorKind, String)>;

/// A caller's part of a look-up in a helper thread. One that a thread has begun continues when this
/// is dropped.
#[derive(Debug, Clone)]
pub struct LookUp(pub(super) Arc<SharedLookUp>);

/// What the callers of a look-up share. It belongs to them alone, so that no descriptor is left when
/// the last of them has gone, however long the resolver takes.
#[derive(Debug)]
pub(super) struct SharedLookUp {
    answer: OnceLock<Answer>,
    earlier: Option<EarlierAnswer>,
    /// Expires when there is an answer, or when the earlier one is to be used. It is never read, so
    /// that it stays readable for all callers.
    answered: TimerFd,
    /// The generation of the process that has the helper thread.
    generation: u64,
}

/// Addresses that the name had before: the answer of a look-up that fails, or has not ended by then.
#[derive(Debug)]
pub(super) struct EarlierAnswer {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) used_from: Instant,
}

impl LookUp {
    /// The answer; `None` when there is none yet.
    #[must_use]
    pub fn answer(&self) -> Option<io::Result<Vec<SocketAddr>>> {
        let shared = &*self.0;
        if shared.generation != generation() {
            // The thread that would answer is one of the parent process.
            return Some(Err(io::Error::other(
                "the process was forked during the look-up",
            )));
        }
        match (shared.answer.get(), &shared.earlier) {
            (Some(Ok(addresses)), _) => Some(Ok(addresses.clone())),
            (Some(Err(_)), Some(earlier)) => Some(Ok(earlier.addresses.clone())),
            (Some(Err((kind, text))), None) => Some(Err(io::Error::new(*kind, text.clone()))),
            (None, Some(earlier)) if earlier.used_from <= Instant::now() => {
                Some(Ok(earlier.addresses.clone()))
            }
            (None, _) => None,
        }
    }

    /// The descriptor that is readable when there is an answer, to wait for with `poll(2)` only.
    #[must_use]
    pub fn for_poll(&self) -> BorrowedFd<'_> {
        self.0.answered.as_fd()
    }

    pub(super) fn wait(&self, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
        loop {
            if let Some(answer) = self.answer() {
                return answer;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the look-up of the name has not ended",
                ));
            }
            // Rounded up: to wake before the time would mean another turn for nothing.
            let milliseconds = left.as_nanos().div_ceil(1_000_000);
            let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
            match poll(
                &mut [PollFd::new(self.for_poll(), PollFlags::POLLIN)],
                timeout,
            ) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl SharedLookUp {
    pub(super) fn new(earlier: Option<EarlierAnswer>, generation: u64) -> nix::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let shared = Self {
            answer: OnceLock::new(),
            earlier,
            answered: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?,
            generation,
        };
        if let Some(earlier) = &shared.earlier {
            shared.expire_in(earlier.used_from.saturating_duration_since(Instant::now()))?;
        }
        Ok(shared)
    }

    pub(super) fn finish(&self, answer: Answer) {
        // A look-up ends once, so this is its only answer.
        let _ = self.answer.set(answer);
        // It fails only for a time that is none.
        let _ = self.expire_in(Duration::ZERO);
    }

    fn expire_in(&self, time: Duration) -> nix::Result<()> {
        // Zero would stop the timer.
        let time = TimeSpec::from(time.max(Duration::from_nanos(1)));
        self.answered
            .set(Expiration::OneShot(time), TimerSetTimeFlags::empty())
    }
}
