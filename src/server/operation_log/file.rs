//! The file of the operation log.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often opening is tried again while it fails.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// What the name of the file before ends in. `logrotate(8)` looks for names that end in `.log`, and
/// leaves it alone.
const OLD_SUFFIX: &str = ".old";

/// A file that lines are appended to, opened again after an error.
pub(super) struct LogFile {
    path: PathBuf,
    max_size: u64,
    file: Option<File>,
    /// Bytes in the file, as far as this process knows; of what is no regular file, none.
    size: u64,
    retry_at: Instant,
}

/// Whether lines can be appended to the file without its becoming too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotation {
    /// They can.
    NotNeeded,
    /// They can, for the file is a new one; what was in it has another name.
    Rotated {
        /// There was a file of that name, which is gone.
        discarded: bool,
    },
}

/// Lines could not be written.
pub(super) struct PartialWrite {
    /// Lines that are in the file nevertheless.
    pub(super) written: u64,
    /// Why the others are not.
    pub(super) error: io::Error,
}

impl LogFile {
    /// The log of server `index` in `directory`; opened with [`LogFile::open`].
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

    /// Where what was in the file before is.
    pub(super) fn old_path(&self) -> PathBuf {
        old_path(&self.path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Opens the file unless it is open, or failed to open less than [`REOPEN_INTERVAL`] ago.
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

    /// Sees to it that `bytes` more do not make the file larger than allowed: otherwise it gets the
    /// name of the file before, in place of that one, in one step, and a new file is begun. After
    /// an error the file is closed.
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
        // Others may have made it shorter, or it may be no file at all.
        self.size = if status.is_file() { status.len() } else { 0 };
        if self.size == 0 || self.size.saturating_add(bytes) <= self.max_size {
            return Ok(Rotation::NotNeeded);
        }
        self.file = None;
        let discarded = self.rename_to_old(&status).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("it has reached log.max_size, and cannot be renamed: {error}"),
            )
        })?;
        self.open_now()?;
        Ok(Rotation::Rotated { discarded })
    }

    /// Gives the file with this status the name of the one before, unless its own name is another's
    /// by now. Whether there was one before.
    fn rename_to_old(&self, status: &Metadata) -> io::Result<bool> {
        // The name may be a link to the file.
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

    /// Appends whole lines. After an error the file is closed; it may end in half a line, which the
    /// next [`LogFile::open`] ends.
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

/// Opens for appending, and ends a line that a full disk or a killed dsmd left half written.
fn open(path: &Path) -> io::Result<File> {
    // The right to read is for the look at the last byte.
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
    fn a_new_file_is_not_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(folder.path(), 0, u64::MAX);
        log.open().unwrap();
        let mode = std::fs::metadata(log.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777 & !0o640, 0, "{mode:o}");
    }
}
