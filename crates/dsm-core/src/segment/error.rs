//! The errors of opening a segment, each with its remedy.

use super::geometry::{PARTICIPANTS, WORKERS};
use super::names::{FileGroup, FileKind, FileOwner};
use super::process::Process;
use crate::sys::file_size;
use nix::errno::Errno;
use std::path::{Path, PathBuf};

/// Why a segment cannot be opened, or no worker is available. Each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// A system call failed.
    #[error("{action} {name}: {source}{}", advice(*.source))]
    System {
        /// The action that failed.
        action: &'static str,
        /// The object's name.
        name: String,
        /// The error of the system call.
        source: Errno,
    },
    /// The kernel has no random numbers, which a new incarnation needs.
    #[error("no random number for a new incarnation: {reason}")]
    Randomness {
        /// The error of the kernel.
        reason: String,
    },
    /// The caller interrupted the start.
    #[error("the start was interrupted while {name} was allocated; nothing of it is left")]
    Interrupted {
        /// The object's name.
        name: String,
    },
    /// /dev/shm is full.
    #[error(
        "/dev/shm has no room for {name}: it needs {needed} bytes (k and {overhead} bytes of tables), {free} are free. \
         Make k smaller, or /dev/shm larger: mount -o remount,size=SIZE /dev/shm"
    )]
    NoRoom {
        /// The object's name.
        name: String,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes of that beyond k.
        overhead: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The kernel refuses the memory although /dev/shm has room.
    #[error(
        "the kernel has no memory for {name}: it needs {needed} bytes (k and {overhead} bytes of tables). Make k smaller, or \
         allow more: MemoryMax= of the unit, the memory of the container, ulimit -v, or the machine's own (free -h; where \
         vm.overcommit_memory is 2, CommitLimit of /proc/meminfo)"
    )]
    NoMemory {
        /// The object's name.
        name: String,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes of that beyond k.
        overhead: u64,
    },
    /// The kernel has no open-file-description locks, by which participants detect that one has
    /// died.
    #[error(
        "lock {name}: {source}. This needs open-file-description locks (F_OFD_SETLK of fcntl(2), Linux 3.15), by which processes \
         know which of them live: run it where kernel, file system and sandbox have them (gVisor, for one, does not)"
    )]
    NoLocks {
        /// The object's name.
        name: String,
        /// The error of the system call.
        source: Errno,
    },
    /// The process would be killed while it allocates.
    #[error(
        "{name} needs {needed} bytes of memory (k, {overhead} bytes of tables, and some for dsmd itself), but dsmd may use \
         {limit} bytes, as {source_of_limit} says: make k smaller, or allow more (MemoryMax= of the unit, the memory of the \
         container)"
    )]
    MemoryLimit {
        /// The object's name.
        name: String,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes of that for tables.
        overhead: u64,
        /// Bytes that are allowed.
        limit: u64,
        /// What sets the limit: a file of a control group, or the memory of the machine.
        source_of_limit: String,
    },
    /// The process may not make a file that large.
    #[error(
        "{name} needs {needed} bytes (k and {overhead} bytes of tables), but this process may make files of {limit} bytes at \
         most: make k smaller, or {}",
        file_size::HINT
    )]
    FileLimit {
        /// The object's name.
        name: String,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes of that beyond k.
        overhead: u64,
        /// Bytes that are allowed.
        limit: u64,
    },
    /// The object, its copy area or one of its semaphores belongs to another user.
    #[error("{} belongs to {owner}, and this process runs as {own}: {}", .path.display(), hint(.path))]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: FileOwner,
        /// The user of this process.
        own: FileOwner,
    },
    /// The name is that of something that is neither a shared-memory object nor a semaphore.
    #[error("{} is {kind} of {owner}, not a shared-memory object: remove it by hand", .path.display())]
    NotAnObject {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: FileKind,
        /// Whose it is.
        owner: FileOwner,
    },
    /// k is larger than this machine can map.
    #[error("k is {k} bytes, more than this machine can map: make k smaller")]
    TooLarge {
        /// Bytes asked for.
        k: u64,
    },
    /// Another dsmd serves the segment.
    #[error(
        "another dsmd ({process}) serves {name}: stop that one first, or give this one another --index or another name in \
         mcomp.cfg"
    )]
    InUse {
        /// The object's name.
        name: String,
        /// The process that serves it.
        process: Process,
    },
    /// A process that repairs the segment after the death of its server makes no progress.
    #[error(
        "a process ({process}) that repairs {name} after the death of its dsmd makes no progress: if it was stopped, continue \
         it (kill -CONT) or end it, then start dsmd again"
    )]
    UnderRepair {
        /// The object's name.
        name: String,
        /// The process that repairs it.
        process: Process,
    },
    /// The segment is of an older format, and a process of an older release works on it.
    #[error(
        "{name} is of the format of an older release, and cannot be upgraded while a process of that release ({process}) works \
         on it: a snapshot or restore that is under way, or a program that was stopped in the middle of a change. Wait for it, \
         continue it (kill -CONT) or end it, then start dsmd again. The memory is unchanged"
    )]
    NotUpgradable {
        /// The object's name.
        name: String,
        /// The process.
        process: Process,
    },
    /// The segment is of the older format, which only its server upgrades.
    #[error(
        "{name} is of the format of an older release: start or restart the dsmd of this release (systemctl restart dsmd), which \
         upgrades it and keeps its memory. To stay with the older release, use its programs only"
    )]
    NotUpgraded {
        /// The object's name.
        name: String,
    },
    /// The object of that name is not a segment of this server.
    #[error(
        "{name} does not fit: {field} is {found}, expected {expected}. It was left as it is. To save what it holds, serve it with \
         the mcomp.cfg, or the release, that it was made with, and take a snapshot. To delete it and begin with empty memory: \
         rm -f /dev/shm{name} /dev/shm{name}.* /dev/shm/sem.{}.*, as root or as the user whose it is, or dsmd --reset, as that \
         user only",
        .name.trim_start_matches('/')
    )]
    Mismatch {
        /// The object's name.
        name: String,
        /// Which field differs.
        field: &'static str,
        /// What the object has.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// The user of this process may not open the segment.
    #[error(
        "/dev/shm{name} can be opened by {owner} and by the members of {group}, and this process runs as {own}: run it as one \
         of those"
    )]
    NoAccess {
        /// The object's name.
        name: String,
        /// Whose it is.
        owner: FileOwner,
        /// Its group.
        group: FileGroup,
        /// The user of this process.
        own: FileOwner,
    },
    /// There is no segment, or it is not ready.
    #[error(
        "{name} is not ready: start dsmd on this machine first; the journal of one that runs says why"
    )]
    NotReady {
        /// The object's name.
        name: String,
    },
    /// Too many processes have the segment mapped.
    #[error("{name} has {PARTICIPANTS} participants, the most it can have: stop one of them")]
    TooManyParticipants {
        /// The object's name.
        name: String,
    },
    /// Too many threads work on the segment.
    #[error("{name} has {WORKERS} workers, the most it can have: use fewer threads")]
    TooManyWorkers {
        /// The object's name.
        name: String,
    },
}

impl SegmentError {
    pub(super) fn system(action: &'static str, name: &str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::System {
            action,
            name: name.to_owned(),
            source,
        }
    }

    /// The error of a lock of `name` that the kernel neither granted nor refused.
    pub(super) fn lock(name: &str) -> impl FnOnce(Errno) -> Self {
        move |source| match source {
            // A kernel without these locks answers with one of these.
            Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP => Self::NoLocks {
                name: name.to_owned(),
                source,
            },
            source => Self::system("lock", name)(source),
        }
    }

    /// Turns an error that says that there is no room for a new segment, of `k` bytes and
    /// `overhead` bytes of tables, into one that says how much is needed. `free` is what /dev/shm
    /// had before.
    pub(super) fn of_making(self, k: u64, overhead: u64, free: u64) -> Self {
        let needed = k + overhead;
        match self {
            Self::System {
                source: Errno::ENOSPC,
                name,
                ..
            } => Self::NoRoom {
                name,
                needed,
                overhead,
                free,
            },
            Self::System {
                source: Errno::ENOMEM,
                name,
                ..
            } => Self::NoMemory {
                name,
                needed,
                overhead,
            },
            Self::System {
                source: Errno::EFBIG,
                name,
                ..
            } => Self::FileLimit {
                name,
                needed,
                overhead,
                limit: file_size::limit(),
            },
            other => other,
        }
    }
}

/// What the user can do about a file of another user. Only the segment itself holds data that may
/// be needed.
fn hint(path: &Path) -> String {
    let shown = path.display();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with("sem.") || name.ends_with(".copies") {
        return format!("it holds no memory, and that user or root can remove it (rm {shown})");
    }
    format!(
        "only that user's dsmd can serve its memory; if the memory is not needed, that user or root can remove it (rm -f \
         {shown} {shown}.* {}/sem.{name}.*)",
        path.parent().unwrap_or(path).display()
    )
}

/// What the user can do about a failed system call; follows the text of the error.
fn advice(error: Errno) -> &'static str {
    match error {
        Errno::EACCES | Errno::EPERM => {
            ". See who may write there (ls -ld /dev/shm), and what the sandbox of the unit or container allows"
        }
        Errno::EROFS => ". Mount /dev/shm for writing: mount -o remount,rw /dev/shm",
        Errno::EMFILE => ". Raise the limit of open files: LimitNOFILE= of the unit, or ulimit -n",
        Errno::ENFILE => {
            ". The machine has as many open files as it allows: raise fs.file-max, see sysctl(8)"
        }
        Errno::ENOMEM => {
            ". Allow more memory: MemoryMax= of the unit, the memory of the container, ulimit -v, or the machine's own (free -h)"
        }
        Errno::ENOSPC => {
            ". Make room in /dev/shm (df -h -i /dev/shm), or mount it larger: mount -o remount,size=SIZE /dev/shm"
        }
        Errno::ENOSYS | Errno::EOPNOTSUPP => {
            ". The kernel, or the sandbox that this runs in, does not have that system call: run it on Linux itself"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_segment_without_room_says_how_much_it_needs_and_where_to_allow_it() {
        let said = |errno| {
            SegmentError::system("allocate", "/dsm.0")(errno)
                .of_making(1 << 20, 1 << 10, 77)
                .to_string()
        };
        for (errno, words) in [
            (
                Errno::ENOSPC,
                &[
                    "/dev/shm has no room for /dsm.0",
                    "77 are free",
                    "remount,size=",
                ][..],
            ),
            (
                Errno::ENOMEM,
                &[
                    "no memory for /dsm.0",
                    "MemoryMax=",
                    "container",
                    "ulimit -v",
                    "CommitLimit",
                ],
            ),
            (Errno::EFBIG, &["/dsm.0 needs"]),
        ] {
            let said = said(errno);
            assert!(
                said.contains("1049600 bytes (k and 1024 bytes of tables)")
                    && said.contains("ake k smaller"),
                "{said}"
            );
            words
                .iter()
                .for_each(|word| assert!(said.contains(word), "{said}"));
        }
        assert_eq!(said(Errno::EIO), "allocate /dsm.0: EIO: I/O error");
    }

    #[test]
    fn a_kernel_without_open_file_description_locks_is_reported_as_such() {
        for errno in [Errno::EINVAL, Errno::ENOSYS] {
            let said = SegmentError::lock("/dsm.0")(errno).to_string();
            assert!(
                said.contains("open-file-description locks") && said.contains("gVisor"),
                "{said}"
            );
        }
        assert!(
            SegmentError::lock("/dsm.0")(Errno::EMFILE)
                .to_string()
                .contains("LimitNOFILE=")
        );
    }

    #[test]
    fn every_error_of_opening_a_segment_says_what_to_do() {
        use Errno as E;
        for errno in [
            E::EACCES,
            E::EPERM,
            E::EROFS,
            E::EMFILE,
            E::ENFILE,
            E::ENOMEM,
            E::ENOSPC,
            E::ENOSYS,
        ] {
            assert!(!advice(errno).is_empty(), "{errno}");
        }
    }
}
