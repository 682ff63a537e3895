//! The limit of open files of a process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files to `wanted`, as far as the hard limit allows, see `getrlimit(2)`.
/// Returns the resulting limit, which may be more than `wanted`; `None` when it cannot be read.
#[must_use]
pub fn raise_limit(wanted: u64) -> Option<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let wanted = wanted.min(hard).max(soft);
    let raised = soft >= wanted || setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok();
    Some(if raised { wanted } else { soft })
}
