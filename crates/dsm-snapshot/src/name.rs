//! The names of snapshot files. They sort by time, and only a file with such a name is listed or
//! deleted as a snapshot.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

/// The beginning of the names.
const PREFIX: &str = "dsm-";

/// The end of the names.
const SUFFIX: &str = ".dsnap";

/// The suffix of a file that is being written.
pub(super) const PARTIAL_SUFFIX: &str = ".partial";

/// The length of `20261123T040000Z`.
const TIME_LENGTH: usize = 16;

/// The most files of one second.
const MAX_ORDINAL: u32 = 999;

/// A name such as `dsm-20261123T040000Z.dsnap`, or `dsm-20261123T040000Z-2.dsnap` for the second
/// file of the same second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName {
    seconds: u64,
    ordinal: u32,
}

impl FileName {
    /// The first name for a cut at `cut_time` ns since 1970.
    #[must_use]
    pub fn new(cut_time: u64) -> Self {
        Self {
            seconds: cut_time / 1_000_000_000,
            ordinal: 1,
        }
    }

    /// The next name of the same second; `None` after 999 of them.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        (self.ordinal < MAX_ORDINAL).then_some(Self {
            ordinal: self.ordinal + 1,
            ..self
        })
    }

    /// Parses the name of a file; `None` when it does not have this form.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let middle = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        let (time, ordinal) = middle.split_at_checked(TIME_LENGTH)?;
        let (date, clock) = time.strip_suffix('Z')?.split_once('T')?;
        if !date.is_ascii() || !clock.is_ascii() || date.len() != 8 || clock.len() != 6 {
            return None;
        }
        let text = format!(
            "{}-{}-{}T{}:{}:{}Z",
            &date[..4],
            &date[4..6],
            &date[6..],
            &clock[..2],
            &clock[2..4],
            &clock[4..]
        );
        let seconds = humantime::parse_rfc3339(&text)
            .ok()?
            .duration_since(UNIX_EPOCH)
            .ok()?
            .as_secs();
        let ordinal = match ordinal.strip_prefix('-') {
            Some(ordinal) => ordinal
                .parse()
                .ok()
                .filter(|ordinal| (2..=MAX_ORDINAL).contains(ordinal))?,
            None if ordinal.is_empty() => 1,
            None => return None,
        };
        let parsed = Self { seconds, ordinal };
        // Each name has one spelling: no leap second, no leading zero.
        (parsed.to_string() == name).then_some(parsed)
    }

    /// The second in the name, in ns since 1970.
    #[must_use]
    pub fn time(self) -> u64 {
        self.seconds.saturating_mul(1_000_000_000)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::fmt::Write;
        let mut time = String::new();
        write!(
            time,
            "{}",
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.seconds))
        )?;
        time.retain(|character| character != '-' && character != ':');
        formatter.write_str(PREFIX)?;
        formatter.write_str(&time)?;
        if self.ordinal > 1 {
            write!(formatter, "-{}", self.ordinal)?;
        }
        formatter.write_str(SUFFIX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_contains_the_time_of_the_cut() {
        let name = FileName::new(1_795_406_400_999_999_999);
        assert_eq!(name.to_string(), "dsm-20261123T040000Z.dsnap");
        assert_eq!(
            name.next().unwrap().to_string(),
            "dsm-20261123T040000Z-2.dsnap"
        );
        for name in [
            name,
            name.next().unwrap(),
            FileName::new(0),
            FileName::new(u64::MAX),
        ] {
            assert_eq!(FileName::parse(&name.to_string()), Some(name));
        }
    }

    #[test]
    fn other_names_are_not_those_of_snapshots() {
        for name in [
            "",
            "dsm-.dsnap",
            "dsm-20261123T040000Z.dsnap.partial",
            "dsm-20261123T040000Z-1.dsnap",
            "dsm-20261123T040000Z-02.dsnap",
            "dsm-20261123T040000Z-+2.dsnap",
            "dsm-20261323T040000Z.dsnap",
            "dsm-20261123T04000\u{e9}.dsnap",
            "dsm-2026112\u{e9}T04000Z.dsnap",
            "DSM-20261123T040000Z.dsnap",
            "dsm-20261123T040000Z-1000.dsnap",
        ] {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }
}
