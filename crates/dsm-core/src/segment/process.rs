//! The process behind a participant, for people who want to stop it. Nothing else depends on it:
//! whether a participant lives is decided by its lock.
//!
//! A pid has a meaning only in its pid namespace: pid 1 is the first process of a container, and
//! another process outside. So the namespace is stored beside the pid. It was added without a new
//! format: an older version leaves zero there.

use super::geometry::Geometry;
use nix::sys::stat::stat;
use nix::sys::uio::pread;
use std::fmt;
use std::os::fd::AsFd;
use std::sync::OnceLock;

/// The offset of the namespace from the participant's pid.
pub(super) const NAMESPACE: usize = 8;

/// The offset of the same two words for the process that repairs a dead participant and holds its
/// byte. Added without a new format.
pub(super) const REPAIRER: usize = 16;

/// Bytes of both pairs of words.
const RECORD: usize = 32;

/// A process that has a segment open, as far as this process can identify it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// The process with this pid.
    Pid(u64),
    /// A process of another pid namespace: its pid would name another process here.
    Elsewhere,
    /// A process that is just starting or has just ended.
    Unknown,
}

impl Process {
    pub(super) fn new(pid: u64, namespace: u64, own: u64) -> Self {
        match (pid, namespace) {
            (0, _) => Self::Unknown,
            // From a version that does not store the namespace. Pid 1 is then the first process of
            // another namespace: the init of this machine has no segment.
            (1, 0) => Self::Elsewhere,
            (pid, namespace) if namespace == own || namespace == 0 || own == 0 => Self::Pid(pid),
            _ => Self::Elsewhere,
        }
    }

    /// The process of participant `index` of the segment in a file.
    pub(super) fn of_file(file: impl AsFd, index: usize) -> Self {
        Self::read(file, index, 0)
    }

    /// The process that repairs participant `index` of the segment in a file, if there is one.
    pub(super) fn repairer_of_file(file: impl AsFd, index: usize) -> Option<Self> {
        Some(Self::read(file, index, REPAIRER)).filter(|process| *process != Self::Unknown)
    }

    fn read(file: impl AsFd, index: usize, pair: usize) -> Self {
        let mut bytes = [0; RECORD];
        // Inside the first two pages.
        #[allow(clippy::cast_possible_wrap)]
        let offset = Geometry::participant(index) as i64;
        if pread(file, &mut bytes, offset) != Ok(bytes.len()) {
            return Self::Unknown;
        }
        let word = |at: usize| {
            bytes[pair + at..]
                .first_chunk()
                .map_or(0, |word| u64::from_le_bytes(*word))
        };
        Self::new(word(0), word(NAMESPACE), own_namespace())
    }

    /// Its pid; zero when none is known that has a meaning here.
    pub(super) fn pid(self) -> u64 {
        if let Self::Pid(pid) = self { pid } else { 0 }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(formatter, "pid {pid}"),
            Self::Elsewhere => {
                formatter.write_str("in another pid namespace, as that of a container")
            }
            Self::Unknown => formatter.write_str("which is just starting or ending"),
        }
    }
}

/// The number of this process's pid namespace, see `namespaces(7)`; zero if /proc cannot be read.
pub(super) fn own_namespace() -> u64 {
    static OWN: OnceLock<u64> = OnceLock::new();
    *OWN.get_or_init(|| stat("/proc/self/ns/pid").map_or(0, |status| status.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_of_another_namespace_is_not_shown() {
        assert_eq!(Process::new(7, 100, 100), Process::Pid(7));
        assert_eq!(Process::new(1, 101, 100), Process::Elsewhere);
        assert_eq!(Process::new(7, 101, 100), Process::Elsewhere);
        assert_eq!(Process::new(0, 100, 100), Process::Unknown);
        // From a version that does not store the namespace.
        assert_eq!(
            (Process::new(7, 0, 100), Process::new(1, 0, 100)),
            (Process::Pid(7), Process::Elsewhere)
        );
        assert_eq!(Process::Elsewhere.pid(), 0);
    }
}
