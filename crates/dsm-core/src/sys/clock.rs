//! The monotonic clock, which cannot be set.

use nix::libc;

/// A clock that shows the same time to every process of this machine: `CLOCK_MONOTONIC`, minus the
/// offset of the process's time namespace, see `time_namespaces(7)`.
#[derive(Debug, Clone, Copy)]
pub struct MachineClock {
    /// The offset of `CLOCK_MONOTONIC` in the time namespace of this process, in ns.
    ahead: i64,
}

impl MachineClock {
    /// The clock for this process. If /proc cannot be read, the process is assumed to be in the
    /// initial namespace.
    pub fn of_process() -> Self {
        let namespace = |name| std::fs::read_link(format!("/proc/self/ns/{name}")).ok();
        // The file contains the offsets for children, which differ after unshare(2).
        let is_own = namespace("time") == namespace("time_for_children");
        let offsets = if is_own {
            std::fs::read_to_string("/proc/self/timens_offsets").ok()
        } else {
            None
        };
        Self {
            ahead: offsets.as_deref().and_then(ahead).unwrap_or(0),
        }
    }

    /// Nanoseconds since a fixed instant before the first process started.
    #[must_use]
    pub fn now(self) -> u64 {
        nanoseconds(timespec()).saturating_add_signed(self.ahead.saturating_neg())
    }
}

/// The offset of the monotonic clock in a `timens_offsets`, in ns.
fn ahead(offsets: &str) -> Option<i64> {
    let mut words = offsets
        .lines()
        .find_map(|line| line.strip_prefix("monotonic"))?
        .split_whitespace();
    let (seconds, nanoseconds): (i64, i64) =
        (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

/// `CLOCK_MONOTONIC` in ns, accurate to a few milliseconds. It costs a few ns and no system call.
#[inline]
#[must_use]
pub fn coarse() -> u64 {
    nanoseconds(read(libc::CLOCK_MONOTONIC_COARSE))
}

/// `CLOCK_MONOTONIC` in ns, exact.
#[must_use]
pub fn now() -> u64 {
    nanoseconds(timespec())
}

/// `CLOCK_MONOTONIC` as a `timespec`.
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
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` outlives the call; both clocks exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_of_a_time_namespace_is_read() {
        assert_eq!(
            ahead("monotonic           86400         5\nboottime            1         2\n"),
            Some(86_400_000_000_005)
        );
        assert_eq!(
            ahead("monotonic  -2 500000000\nboottime 0 0\n"),
            Some(-1_500_000_000)
        );
        assert_eq!(ahead("boottime 0 0\n"), None);
        assert_eq!(ahead("monotonic 99999999999999999 0\n"), None);
    }
}
