//! The clock that nobody sets.

use nix::libc;

/// Nanoseconds of `CLOCK_MONOTONIC`, the same for every process of this machine, see `clock_gettime(2)`.
pub(crate) fn monotonic() -> u64 {
    nanoseconds(timespec())
}

/// The same to a few milliseconds, for a few nanoseconds of work and no system call.
#[inline]
pub(crate) fn coarse() -> u64 {
    nanoseconds(read(libc::CLOCK_MONOTONIC_COARSE))
}

/// The same as the kernel has it.
pub(super) fn timespec() -> libc::timespec {
    read(libc::CLOCK_MONOTONIC)
}

#[inline]
fn nanoseconds(time: libc::timespec) -> u64 {
    // Neither is negative; the sum fits for 584 years after the machine started.
    #[allow(clippy::cast_sign_loss)]
    let nanoseconds = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
    nanoseconds
}

#[inline]
fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` outlives the call; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now
}
