//! The limit of file sizes, `RLIMIT_FSIZE`: `ulimit -f` of a shell, `LimitFSIZE=` of a unit.
//!
//! A write beyond it fails with EFBIG, and the kernel sends SIGXFSZ, which kills a process that
//! does not handle it.

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

/// What the user can do about a file that exceeds the limit.
pub const HINT: &str = "raise the limit of file sizes: ulimit -f, or LimitFSIZE= of the unit";

/// Ignores SIGXFSZ, so that EFBIG is an error like others in this process. For programs: a library
/// must not change how its process handles signals.
pub fn ignore_signal() {
    // SAFETY: ignoring a signal installs no handler that could run code.
    let ignored = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
    debug_assert!(ignored.is_ok(), "SIGXFSZ can be ignored");
}

/// The size of the largest file that this process may create, in bytes; `u64::MAX` if there is no
/// limit.
#[must_use]
pub fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_FSIZE).map_or(u64::MAX, |(soft, _)| soft)
}
