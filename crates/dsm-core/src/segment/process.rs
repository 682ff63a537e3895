//! Which process a participant is, for people who are to stop it. Nothing else depends on it: that
//! a participant lives is the kernel's word, by its lock.
//!
//! A pid means something in its own pid namespace only: 1 is the first process of a container, and
//! another one outside. So the namespace stands beside the pid. Part of no format: a version that
//! does not know it leaves zero there.

use super::geometry::Geometry;
use crate::sys::mapping::Mapping;
use nix::sys::stat::stat;
use nix::sys::uio::pread;
use std::fmt;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

/// Where the namespace stands, from the participant's pid on.
const NAMESPACE: usize = 8;

/// Where the same two words stand of who repairs a participant that died, and holds its byte as
/// long; part of no format either.
const REPAIRER: usize = 16;

/// Both pairs.
const RECORD: usize = 32;

/// A process that has a segment open, as far as this process can tell which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// The one with this pid.
    Pid(u64),
    /// One of another pid namespace, where its pid would be another process.
    Elsewhere,
    /// One that has just come or gone.
    Unknown,
}

impl Process {
    fn new(pid: u64, namespace: u64, own: u64) -> Self {
        match (pid, namespace) {
            (0, _) => Self::Unknown,
            // Of a version that does not say: the first process of a namespace is of another one
            // than this process, or the init of the machine, which has no segment.
            (1, 0) => Self::Elsewhere,
            (pid, namespace) if namespace == own || namespace == 0 || own == 0 => Self::Pid(pid),
            _ => Self::Elsewhere,
        }
    }

    /// That of participant `index` of the segment in a file.
    pub(super) fn of_file(file: impl AsFd, index: usize) -> Self {
        Self::read(file, index, 0)
    }

    /// That which repairs participant `index` of the segment in a file, if one does.
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

    /// That of participant `index`.
    pub(super) fn of(mapping: &Mapping, index: usize) -> Self {
        Self::load(mapping, Geometry::participant(index))
    }

    /// That which acts for participant `index`: itself, or who repairs it.
    pub(super) fn acting_for(mapping: &Mapping, index: usize) -> Self {
        match Self::load(mapping, Geometry::participant(index) + REPAIRER) {
            Self::Unknown => Self::of(mapping, index),
            repairer => repairer,
        }
    }

    fn load(mapping: &Mapping, pair: usize) -> Self {
        let word = |at| mapping.word(pair + at).load(Ordering::Relaxed);
        Self::new(word(0), word(NAMESPACE), own_namespace())
    }

    /// Records this process as participant `index`.
    pub(super) fn record(mapping: &Mapping, index: usize) {
        Self::store(mapping, Geometry::participant(index));
    }

    /// Records this process as the one that repairs participant `index`. One that dies as that is
    /// followed by another.
    pub(super) fn record_repairer(mapping: &Mapping, index: usize) {
        Self::store(mapping, Geometry::participant(index) + REPAIRER);
    }

    /// Notes that participant `index` is repaired.
    pub(super) fn forget_repairer(mapping: &Mapping, index: usize) {
        mapping
            .word(Geometry::participant(index) + REPAIRER)
            .store(0, Ordering::Release);
    }

    fn store(mapping: &Mapping, pair: usize) {
        mapping
            .word(pair + NAMESPACE)
            .store(own_namespace(), Ordering::Relaxed);
        mapping
            .word(pair)
            .store(u64::from(std::process::id()), Ordering::Release);
    }

    /// Its pid; zero when there is none that means anything here.
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

/// The number of this process's pid namespace, see `namespaces(7)`; zero where /proc does not say.
fn own_namespace() -> u64 {
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
        // Of a version that does not record its namespace.
        assert_eq!(
            (Process::new(7, 0, 100), Process::new(1, 0, 100)),
            (Process::Pid(7), Process::Elsewhere)
        );
        assert_eq!(Process::Elsewhere.pid(), 0);
    }
}
