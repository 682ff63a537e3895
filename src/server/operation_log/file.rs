//! The file of the operation log, and its rotation by size.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The interval between attempts to open the file after an error.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// The suffix of the previous file. `logrotate(8)` looks for names that end in `.log` and leaves
/// this one alone.
const OLD_SUFFIX: &str = ".old";

/// A file that lines are appended to; reopened after an error.
pub(super) struct LogFile {
    path: PathBuf,
    max_size: u64,
    file: Option<File>,
    /// The size of the file, as far as this process knows; zero for what is no regular file.
    size: u64,
    retry_at: Instant,
}

/// Whether the file was rotated to make room for more lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotation {
    /// The file has room.
    NotNeeded,
    /// The file is new; the previous content has the old name.
    Rotated {
        /// A file of that name was discarded.
        discarded: bool,
    },
}

/// A write that failed after some of its lines.
pub(super) struct PartialWrite {
    /// The lines that were written nevertheless.
    pub(super) written: u64,
    /// Why the others were not.
    pub(super) error: io::Error,
}

impl LogFile {
    /// The log of server `index` in `directory`; [`LogFile::open`] opens it.
    pub(super) fn new(directory: &Path, index: u32, max_size: u64) -> Self {
        let path = directory.join(format!("operations-{index}.log"));
        Self {
            path,
            max_size,
            file: None,
            size: 0,
            retry_at: Instant::now(),
        }
    }

    /// The path of the previous file.
    pub(super) fn old_path(&self) -> PathBuf {
        old_path(&self.path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Opens the file, unless it is open or failed to open less than [`REOPEN_INTERVAL`] ago.
    pub(super) fn open(&mut self) -> io::Result<()> {
        if self.file.is_some() || Instant::now() < self.retry_at {
            return Ok(());
        }
        self.retry_at = Instant::now() + REOPEN_INTERVAL;
        self.open_now()
    }

    fn open_now(&mut self) -> io::Result<()> {
        let file = open(&self.path)?;
        let status = file.metadata()?;
        self.size = if status.is_file() { status.len() } else { 0 };
        self.file = Some(file);
        Ok(())
    }

    /// Rotates the file if `bytes` more would exceed its maximum size: renames it to the old name,
    /// atomically replacing that file, and creates a new one. After an error the file is closed.
    pub(super) fn rotate_if_full(&mut self, bytes: usize) -> io::Result<Rotation> {
        let bytes = bytes as u64;
        let Some(file) = self
            .file
            .as_ref()
            .filter(|_| self.size.saturating_add(bytes) > self.max_size)
        else {
            return Ok(Rotation::NotNeeded);
        };
        let status = file.metadata()?;
        // Another process may have truncated it, or it is no regular file.
        self.size = if status.is_file() { status.len() } else { 0 };
        if self.size == 0 || self.size.saturating_add(bytes) <= self.max_size {
            return Ok(Rotation::NotNeeded);
        }
        self.file = None;
        let discarded = self.rename_to_old(&status).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("it has reached log.max_size and cannot be renamed: {error}"),
            )
        })?;
        self.open_now()?;
        Ok(Rotation::Rotated { discarded })
    }

    /// Renames the file with this metadata to the old name, unless its path now belongs to another
    /// file. Whether a file of the old name was replaced.
    fn rename_to_old(&self, status: &Metadata) -> io::Result<bool> {
        // The path may be a symbolic link to the file.
        let path = match self.path.canonicalize() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            path => path?,
        };
        let named = path.metadata()?;
        if (named.dev(), named.ino()) != (status.dev(), status.ino()) {
            return Ok(false);
        }
        let before = old_path(&path);
        let discarded = before.exists();
        std::fs::rename(&path, &before)?;
        Ok(discarded)
    }

    /// Appends whole lines. After an error the file is closed. It may end in a partial line, which
    /// the next [`LogFile::open`] terminates.
    pub(super) fn append(&mut self, lines: &str) -> Result<(), PartialWrite> {
        let Some(file) = &mut self.file else {
            return Err(PartialWrite {
                written: 0,
                error: ErrorKind::NotConnected.into(),
            });
        };
        let mut rest = lines.as_bytes();
        while !rest.is_empty() {
            let error = match file.write(rest) {
                Ok(0) => ErrorKind::WriteZero.into(),
                Ok(count) => {
                    rest = &rest[count..];
                    self.size += count as u64;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.file = None;
            let begun = &lines.as_bytes()[..lines.len() - rest.len()];
            return Err(PartialWrite {
                written: begun.split(|byte| *byte == b'\n').skip(1).count() as u64,
                error,
            });
        }
        Ok(())
    }
}

fn old_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(OLD_SUFFIX);
    name.into()
}

/// Opens for appending, and terminates a partial line that a full disk or a killed dsmd left.
fn open(path: &Path) -> io::Result<File> {
    // Opened for reading too, to look at the last byte.
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o640)
        .open(path)?;
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_line_cut_short_is_ended_before_new_ones_follow() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("operations-3.log");
        std::fs::write(&path, "whole\nhal").unwrap();
        let mut log = LogFile::new(folder.path(), 3, u64::MAX);
        log.open().unwrap();
        assert!(log.append("new\n").is_ok());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole\nhal\nnew\n");
    }

    #[test]
    fn a_new_file_is_not_readable_by_other_users() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(folder.path(), 0, u64::MAX);
        log.open().unwrap();
        let mode = std::fs::metadata(log.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777 & !0o640, 0, "{mode:o}");
    }
}
