//! The clock that nobody sets.

use nix::libc;

/// Nanoseconds of `CLOCK_MONOTONIC`, the same for every process of this machine, see `clock_gettime(2)`.
pub(crate) fn monotonic() -> u64 {
    let now = timespec();
    // Neither is negative; the sum fits for 584 years after the machine started.
    #[allow(clippy::cast_sign_loss)]
    let nanoseconds = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
    nanoseconds
}

/// The same as the kernel has it.
pub(super) fn timespec() -> libc::timespec {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` outlives the call; CLOCK_MONOTONIC exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now
}
