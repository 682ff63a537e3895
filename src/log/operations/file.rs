//! The file of the operation log.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often opening is tried again while it fails.
const RETRY: Duration = Duration::from_secs(1);

/// A file that lines are appended to, opened again after an error.
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    retry_at: Instant,
}

/// Lines could not be written.
pub(super) struct Shortfall {
    /// Lines that are in the file nevertheless.
    pub(super) written: u64,
    /// Why the others are not.
    pub(super) error: io::Error,
}

impl LogFile {
    /// The log of server `index` in `directory`; opened with [`LogFile::open`].
    pub(super) fn new(directory: &Path, index: u32) -> Self {
        let path = directory.join(format!("operations-{index}.log"));
        Self { path, file: None, retry_at: Instant::now() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Opens the file unless it is open, or failed to open less than [`RETRY`] ago.
    pub(super) fn open(&mut self) -> io::Result<()> {
        if self.file.is_some() || Instant::now() < self.retry_at {
            return Ok(());
        }
        self.retry_at = Instant::now() + RETRY;
        self.file = Some(open(&self.path)?);
        Ok(())
    }

    /// Appends whole lines. After an error the file is closed; it may end in half a line, which the next
    /// [`LogFile::open`] ends.
    pub(super) fn append(&mut self, lines: &str) -> Result<(), Shortfall> {
        let Some(file) = &mut self.file else {
            return Err(Shortfall { written: 0, error: ErrorKind::NotConnected.into() });
        };
        let mut rest = lines.as_bytes();
        while !rest.is_empty() {
            let error = match file.write(rest) {
                Ok(0) => ErrorKind::WriteZero.into(),
                Ok(count) => {
                    rest = &rest[count..];
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.file = None;
            let begun = &lines.as_bytes()[..lines.len() - rest.len()];
            return Err(Shortfall { written: begun.split(|byte| *byte == b'\n').skip(1).count() as u64, error });
        }
        Ok(())
    }
}

/// Opens for appending, and ends a line that a full disk or a killed dsmd left half written.
fn open(path: &Path) -> io::Result<File> {
    // The right to read is for the look at the last byte.
    let mut file = OpenOptions::new().create(true).append(true).read(true).mode(0o640).open(path)?;
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
        let mut log = LogFile::new(folder.path(), 3);
        log.open().unwrap();
        assert!(log.append("new\n").is_ok());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole\nhal\nnew\n");
    }

    #[test]
    fn a_new_file_is_not_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(folder.path(), 0);
        log.open().unwrap();
        let mode = std::fs::metadata(log.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777 & !0o640, 0, "{mode:o}");
    }
}
