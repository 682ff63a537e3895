//! Why a segment cannot be opened.

use super::geometry::{PARTICIPANTS, WORKERS};
use super::names::{Kind, Owner};
use super::process::Process;
use crate::sys::file_size;
use nix::errno::Errno;
use std::path::{Path, PathBuf};

/// Why a segment cannot be opened, or a worker not be had. Each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// A system call failed.
    #[error("{action} {name}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The object's name.
        name: String,
        /// Why it failed.
        source: Errno,
    },
    /// The kernel has no random numbers, which a new incarnation needs.
    #[error("no random number for a new incarnation: {reason}")]
    Randomness {
        /// Why not.
        reason: String,
    },
    /// The caller broke the start off.
    #[error("the start was broken off while {name} was allocated; nothing of it is left")]
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
        /// A file of a control group, or what the machine has.
        source_of_limit: String,
    },
    /// The process may not make a file that large.
    #[error(
        "{name} needs {needed} bytes (k and {overhead} bytes of tables), but this process may make files of {limit} bytes at \
         most: make k smaller, or {}",
        file_size::WAY_OUT
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
    /// The object, its copy area or a semaphore of it belongs to another user.
    #[error("{} belongs to {owner}, and this process runs as {own}: {}", .path.display(), way_out(.path))]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        owner: Owner,
        /// The user of this process.
        own: Owner,
    },
    /// Something that is no shared-memory object, and no semaphore, has the name of one.
    #[error("{} is {kind} of {owner}, not a shared-memory object: remove it by hand", .path.display())]
    NotAnObject {
        /// What has the name.
        path: PathBuf,
        /// What it is.
        kind: Kind,
        /// Whose it is.
        owner: Owner,
    },
    /// k is more than this machine can map.
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
        /// The process that has it.
        process: Process,
    },
    /// What lies under the name is not a segment that fits.
    #[error(
        "{name} does not fit: {field} is {found}, expected {expected}. It was left as it is; \
         start dsmd with --reset to throw it away and begin with empty memory"
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
    /// There is no segment, or it is not ready.
    #[error("{name} is not ready: start dsmd on this machine first; the journal of one that runs says why")]
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
        move |source| Self::System { action, name: name.to_owned(), source }
    }
}

/// What can be done about a file of another user: only a segment holds what may be needed.
fn way_out(path: &Path) -> String {
    let shown = path.display();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with("sem.") || name.ends_with(".copies") {
        return format!("it holds no memory, and that user or root can remove it (rm {shown})");
    }
    format!(
        "only that user's dsmd can serve its memory; if the memory is not needed, that user or root can remove it (rm -f \
         {shown} {shown}.copies {}/sem.{name}.*)",
        path.parent().unwrap_or(path).display()
    )
}
