//! The limit of file sizes, `RLIMIT_FSIZE`: `ulimit -f` of a shell, `LimitFSIZE=` of a unit.
//!
//! A write beyond it fails with EFBIG, after the kernel has sent SIGXFSZ, which ends a process that
//! does not expect it.

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

/// What a person does about a file that became larger than allowed.
pub const WAY_OUT: &str = "raise the limit of file sizes: ulimit -f, or LimitFSIZE= of the unit";

/// Makes EFBIG an error like others in this process. For programs: how a process takes a signal is
/// not a library's choice.
pub fn ignore_signal() {
    // SAFETY: to ignore a signal installs no handler that could run code.
    let ignored = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
    debug_assert!(ignored.is_ok(), "SIGXFSZ can be ignored");
}

/// The largest file that this process may make, in bytes; `u64::MAX` where there is no limit.
#[must_use]
pub fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(soft, _)| soft)
}
