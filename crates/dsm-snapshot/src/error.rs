//! What can go wrong with a snapshot file, and what to do then.

use super::frame::FrameError;
use super::header::HeaderError;
use dsm_core::layout::OutsideMemory;
use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why a snapshot was not written. No file is left under its name; files that were there before are
/// as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A system call failed.
    #[error("{action} {}: {source}{}; there is no new snapshot, those before are as they were", .path.display(), way_out(.source.kind()))]
    System {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: Error,
    },
    /// The name is taken.
    #[error("{} is there already, and a snapshot never overwrites: give another name", .0.display())]
    Exists(PathBuf),
    /// The name is one for a file that is being written.
    #[error("{} is no name for a snapshot: what ends in .partial is removed as the rest of one that was cut short", .0.display())]
    PartialName(PathBuf),
    /// Another process is writing it.
    #[error("a snapshot is under way: another process writes {}", .0.display())]
    UnderWay(PathBuf),
    /// A frame is not one of this snapshot.
    #[error("a frame of server {server} cannot be: {source}")]
    Frame {
        /// The server that it claims to be of.
        server: usize,
        /// What is wrong.
        source: FrameError,
    },
    /// The pages of a server did not come in ascending order.
    #[error("server {server} sent page {page} after page {}: a server's pages come once, in ascending order", .expected.saturating_sub(1))]
    Order {
        /// The server's index.
        server: usize,
        /// The page that came.
        page: u64,
        /// The least that may come.
        expected: u64,
    },
    /// The bytes are not whole pages of a server that is in the snapshot.
    #[error(
        "{length} bytes at page {first_page} of server {server} are not whole pages of a segment in this snapshot"
    )]
    NotPages {
        /// The server's index.
        server: usize,
        /// The first page.
        first_page: u64,
        /// Bytes given.
        length: usize,
    },
    /// Something before went wrong already, so that the file would not be whole.
    #[error("the snapshot {} cannot be finished, for a part of it could not be written", .0.display())]
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

/// What the operator can do about a system call that failed.
pub(super) fn way_out(error: ErrorKind) -> &'static str {
    match error {
        ErrorKind::FileTooLarge => {
            ". Raise the limit of file sizes: ulimit -f, or LimitFSIZE= of the unit"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            ". Make room, keep fewer snapshots, or name a larger place in mcomp.cfg (snapshot.directory)"
        }
        ErrorKind::ReadOnlyFilesystem => {
            ". Mount it for writing, let the unit write there (ReadWritePaths=), or name another place in mcomp.cfg \
             (snapshot.directory)"
        }
        ErrorKind::PermissionDenied => {
            ". Write there as the user of the service (sudo -u dsm-snapshot), or name a file elsewhere with --output"
        }
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            ". Make the directory first, or name another one in mcomp.cfg (snapshot.directory)"
        }
        _ => "",
    }
}

/// Why a file cannot be read, or is not whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// A system call failed.
    #[error("{action} {}: {source}", .path.display())]
    System {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: Error,
    },
    /// It is not a file.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// Its header is none.
    #[error("{} cannot be read as a snapshot: {source}", .path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: HeaderError,
    },
    /// Its end is not what it was when it was written.
    #[error("{} is damaged: {what}", .path.display())]
    Footer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// Its index is not what it was when it was written.
    #[error("{} is damaged: its index {what}", .path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A frame is not what it was when it was written. The others can still be read.
    #[error(
        "{} is damaged: the frame at byte {offset}, for addresses {} to {}, is bad: {reason}",
        .path.display(), .addresses.start, .addresses.end - 1
    )]
    Frame {
        /// The file.
        path: PathBuf,
        /// Where the frame begins in the file.
        offset: u64,
        /// The addresses whose bytes are lost.
        addresses: Range<u64>,
        /// What is wrong.
        reason: String,
    },
    /// The hash of the whole file does not match.
    #[error("{} is damaged: its hash is not that of its bytes, though every frame is sound by itself", .path.display())]
    Hash {
        /// The file.
        path: PathBuf,
    },
    /// The range is not in the memory that the snapshot shows.
    #[error(transparent)]
    Outside(#[from] OutsideMemory),
    /// The server that holds a part of the range is missing from the snapshot.
    #[error("{} is a partial snapshot without server {server}: addresses {} to {} are not in it", .path.display(), .addresses.start, .addresses.end - 1)]
    Missing {
        /// The file.
        path: PathBuf,
        /// The server's index.
        server: usize,
        /// The addresses that it held.
        addresses: Range<u64>,
    },
}

impl ReadError {
    /// The exit code of a program that fails by it, after `sysexits(3)`.
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
