//! Amounts for people: numbers of things, sizes and times, with a unit and few digits.

pub(super) use dsm_config::approximate_size as bytes;
use dsm_core::layout::Layout;
use std::time::Duration;

/// A number of bytes, such as `1 byte` or `5 bytes`.
pub(super) fn count_of_bytes(number: u64) -> String {
    count(number, "byte")
}

/// A number of things, such as `2 servers`; the plural of `thing` must end in s.
pub(super) fn count(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// A size, rounded and exact: `1.5 KiB (1536 bytes)`.
pub(super) fn exact_bytes(count: u64) -> String {
    if count < 1024 {
        count_of_bytes(count)
    } else {
        format!("{} ({count} bytes)", bytes(count))
    }
}

/// The number of servers and the size of each segment: `3 servers of 64 MiB`.
pub(super) fn servers(layout: &Layout) -> String {
    format!(
        "{} of {}",
        count(layout.server_count() as u64, "server"),
        bytes(layout.share_size())
    )
}

/// A short time in ns, µs, ms or s.
pub(super) fn latency(time: Duration) -> String {
    let nanoseconds = time.as_nanos();
    let (divisor, unit) = match nanoseconds {
        0..1_000 => return format!("{nanoseconds} ns"),
        1_000..1_000_000 => (1_000, "µs"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    let tenths = nanoseconds * 10 / divisor;
    if tenths >= 1000 {
        format!("{} {unit}", tenths / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

/// A long time in its two largest units: `3d 4h`, `4h 5m`, `5m 6s`, `7s`.
pub(super) fn uptime(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_one_decimal_at_most() {
        for (amount, text) in [
            (0, "0 B"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (64 << 20, "64 MiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (1 << 63, "8 EiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(amount), text);
        }
        for (nanoseconds, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_500, "1.5 µs"),
            (150_000, "150 µs"),
            (2_000_000_000, "2.0 s"),
        ] {
            assert_eq!(latency(Duration::from_nanos(nanoseconds)), text);
        }
        for (seconds, text) in [
            (0, "0s"),
            (66, "1m 6s"),
            (3_660, "1h 1m"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(uptime(seconds), text);
        }
    }
}
