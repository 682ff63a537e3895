//! Counters of the reloads of a server's configuration, by which the process that asks for a reload
//! learns its outcome.

use super::Segment;
use super::geometry::Geometry;
use super::participant::{SERVER, byte};
use super::superblock::{Field, MAGIC};
use crate::sys::ofd;
use nix::fcntl::OFlag;
use nix::libc::{S_IFMT, S_IFREG};
use nix::sys::mman::shm_open;
use nix::sys::stat::{Mode, fstat};
use nix::sys::uio::pread;
use nix::unistd::geteuid;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

/// The reloads of one server since its segment was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reloads {
    /// Reloads that succeeded.
    pub done: u64,
    /// Reloads that changed nothing because the file was refused.
    pub refused: u64,
}

/// The segment of a running server, found by the pid of the server.
pub struct ServedSegment(OwnedFd);

impl Segment {
    /// Counts a reload. For the server of the segment.
    pub fn count_reload(&self, is_done: bool) {
        let field = if is_done {
            Field::ReloadsDone
        } else {
            Field::ReloadsRefused
        };
        self.attachment
            .tables
            .superblock
            .word(field)
            .fetch_add(1, Ordering::Release);
    }
}

impl ServedSegment {
    /// Finds the segment that the process `pid` serves. Only segments of this user are searched;
    /// root searches those of every user.
    ///
    /// # Errors
    /// When the directory of shared memory cannot be read.
    pub fn find(pid: u32) -> io::Result<Option<Self>> {
        for entry in std::fs::read_dir("/dev/shm")? {
            let name = entry?.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with("sem.")) else {
                continue;
            };
            let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            // A segment that was removed, or that this user may not open, is skipped.
            let Ok(file) = shm_open(format!("/{name}").as_str(), flags, Mode::empty()) else {
                continue;
            };
            if is_served_by(file.as_fd(), pid) {
                return Ok(Some(Self(file)));
            }
        }
        Ok(None)
    }

    /// The present values of the counters.
    ///
    /// # Errors
    /// When the object cannot be read.
    pub fn reloads(&self) -> io::Result<Reloads> {
        let word = |field| {
            word(self.0.as_fd(), field as usize)
                .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
        };
        Ok(Reloads {
            done: word(Field::ReloadsDone)?,
            refused: word(Field::ReloadsRefused)?,
        })
    }

    /// Whether the server is alive.
    #[must_use]
    pub fn is_served(&self) -> bool {
        is_served(self.0.as_fd())
    }
}

fn is_served_by(file: BorrowedFd<'_>, pid: u32) -> bool {
    let user = geteuid();
    // Any user may create files in /dev/shm, with any content.
    let is_trusted = fstat(file).is_ok_and(|status| {
        status.st_mode & S_IFMT == S_IFREG && (user.is_root() || status.st_uid == user.as_raw())
    });
    is_trusted
        && word(file, Field::Magic as usize) == Some(MAGIC)
        && word(file, Geometry::participant(SERVER)) == Some(u64::from(pid))
        && is_served(file)
}

fn is_served(file: BorrowedFd<'_>) -> bool {
    ofd::is_locked_elsewhere(file, byte(SERVER)).unwrap_or(false)
}

/// The word at `offset`; `None` if the file is too short.
fn word(file: BorrowedFd<'_>, offset: usize) -> Option<u64> {
    let mut bytes = [0; 8];
    let read = pread(file, &mut bytes, i64::try_from(offset).ok()?).ok()?;
    (read == bytes.len()).then(|| u64::from_le_bytes(bytes))
}
