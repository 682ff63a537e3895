//! The errors of writing and reading a snapshot file.

use super::frame::FrameError;
use super::header::HeaderError;
use dsm_core::layout::OutsideMemory;
use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why a snapshot was not written. No file has its name, and older files were not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A system call failed.
    #[error(
        "{action} {}: {source}{}; no new snapshot was written, those before are unchanged",
        .path.display(), hint(.source.kind())
    )]
    System {
        /// The operation that failed.
        action: &'static str,
        /// The path of the file or directory.
        path: PathBuf,
        /// Why it failed.
        source: Error,
    },
    /// The name is taken.
    #[error("{} exists, and a snapshot never overwrites a file: give another name", .0.display())]
    Exists(PathBuf),
    /// The name has the form of a partial file's.
    #[error(
        "a snapshot cannot have the name {}: files that end in .partial are removed as remains of \
         snapshots that were cut short. Give another name",
        .0.display()
    )]
    PartialName(PathBuf),
    /// Another process is writing it.
    #[error("a snapshot is under way: another process is writing {}", .0.display())]
    UnderWay(PathBuf),
    /// A frame is not a sound frame of this snapshot.
    #[error("server {server} sent a frame that is not valid: {source}")]
    Frame {
        /// The server's index in the frame's header.
        server: usize,
        /// What is wrong.
        source: FrameError,
    },
    /// The pages of a server did not arrive in ascending order.
    #[error(
        "server {server} sent page {page} after page {}: a server sends each page once, in \
         ascending order",
        .expected.saturating_sub(1)
    )]
    Order {
        /// The server's index.
        server: usize,
        /// The page that arrived.
        page: u64,
        /// The least page that may follow.
        expected: u64,
    },
    /// The bytes are not whole pages of a server that is in the snapshot.
    #[error(
        "{length} bytes at page {first_page} of server {server} are not whole pages of a segment \
         in this snapshot"
    )]
    NotPages {
        /// The server's index.
        server: usize,
        /// The first page.
        first_page: u64,
        /// The number of bytes.
        length: usize,
    },
    /// An earlier call failed, so that the file would not be complete.
    #[error(
        "the snapshot {} cannot be finished, because a part of it could not be written",
        .0.display()
    )]
    Broken(PathBuf),
}

impl WriteError {
    pub(super) fn system(action: &'static str, path: &Path) -> impl FnOnce(Error) -> Self {
        move |source| Self::System {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// The hint for a system call that failed.
pub(super) fn hint(error: ErrorKind) -> &'static str {
    match error {
        ErrorKind::FileTooLarge => {
            ". Raise the limit of file sizes: ulimit -f, or LimitFSIZE= of the unit"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            ". Make room, keep fewer snapshots, or set a larger directory in mcomp.cfg \
             (snapshot.directory)"
        }
        ErrorKind::ReadOnlyFilesystem => {
            ". Mount it for writing, let the unit write there (ReadWritePaths=), or set another \
             directory in mcomp.cfg (snapshot.directory)"
        }
        ErrorKind::PermissionDenied => {
            ". Write there as the user of the service (sudo -u dsm-snapshot), or name a file \
             elsewhere with --output"
        }
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            ". Make the directory first, or set another one in mcomp.cfg (snapshot.directory)"
        }
        _ => "",
    }
}

/// Why a file cannot be read, or is not sound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A system call failed.
    #[error("{action} {}: {source}", .path.display())]
    System {
        /// The operation that failed.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: Error,
    },
    /// It is not a regular file.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Its header is not sound.
    #[error("{} cannot be read as a snapshot: {source}", .path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: HeaderError,
    },
    /// Its footer is not sound.
    #[error("{} is damaged: {what}", .path.display())]
    Footer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// Its index is not sound.
    #[error("{} is damaged: its index {what}", .path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A frame is damaged. The other frames can be read.
    #[error(
        "{} is damaged: the frame at byte {offset}, for addresses {} to {}, is bad: {reason}",
        .path.display(), .addresses.start, .addresses.end - 1
    )]
    Frame {
        /// The file.
        path: PathBuf,
        /// The offset of the frame in the file.
        offset: u64,
        /// The addresses whose bytes are lost.
        addresses: Range<u64>,
        /// What is wrong.
        reason: String,
    },
    /// The hash of the whole file does not match.
    #[error(
        "{} is damaged: its hash does not match its bytes, although each frame is sound",
        .path.display()
    )]
    Hash {
        /// The file.
        path: PathBuf,
    },
    /// The range is not in the memory of the snapshot.
    #[error(transparent)]
    Outside(#[from] OutsideMemory),
    /// The snapshot lacks a server that held a part of the range.
    #[error(
        "{} is a partial snapshot without server {server}: addresses {} to {} are not in it",
        .path.display(), .addresses.start, .addresses.end - 1
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// The server's index.
        server: usize,
        /// The addresses of its memory.
        addresses: Range<u64>,
    },
}

impl ReadError {
    /// The exit code of a program that fails with this error, after `sysexits(3)`.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotAFile(_) => 66,
            Self::System { source, .. } => match source.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => 66,
                ErrorKind::PermissionDenied => 77,
                _ => 74,
            },
            Self::Header { .. }
            | Self::Footer { .. }
            | Self::Index { .. }
            | Self::Frame { .. }
            | Self::Hash { .. }
            | Self::Outside(_)
            | Self::Missing { .. } => 65,
        }
    }

    pub(super) fn system(action: &'static str, path: &Path) -> impl FnOnce(Error) -> Self {
        move |source| Self::System {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
