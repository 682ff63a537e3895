//! The destination of exported bytes: a sparse file, which appears under its name only when it is
//! complete, or a stream.

use crate::cli::failure::CliFailure;
use crate::cli::output::OutputStream;
use dsm_snapshot::ZERO_PAGE;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The directory in which the kernel names the open files of this process.
const DESCRIPTORS: &str = "/proc/self/fd";

/// Receives bytes in ascending order; omitted ranges are zeros.
pub(super) enum ExportTarget {
    /// Zeros become holes.
    Sparse(SparseFile),
    /// Zeros are written; `at` is the offset reached.
    Stream { output: OutputStream, at: u64 },
}

impl ExportTarget {
    /// Standard output.
    pub(super) fn stdout() -> Result<Self, CliFailure> {
        Ok(Self::Stream {
            output: OutputStream::stdout()?,
            at: 0,
        })
    }

    /// A file, which must not be `source` itself. A device or a pipe becomes a stream.
    pub(super) fn file(path: &Path, source: &Path) -> Result<Self, CliFailure> {
        let (found, source) = (std::fs::metadata(path).ok(), std::fs::metadata(source).ok());
        let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        match &found {
            Some(metadata)
                if source
                    .as_ref()
                    .is_some_and(|source| identity(source) == identity(metadata)) =>
            {
                let message = format!(
                    "{} is the snapshot itself: name another file",
                    path.display()
                );
                Err(CliFailure::Usage(message))
            }
            Some(metadata) if !metadata.is_file() => Ok(Self::Stream {
                output: OutputStream::file(path)?,
                at: 0,
            }),
            _ => Ok(Self::Sparse(SparseFile::create(
                path,
                found.as_ref(),
                unnamed,
            )?)),
        }
    }

    /// Writes bytes at an offset that is not below the end of the bytes before. Calls `progress`
    /// with the offset reached.
    pub(super) fn put(
        &mut self,
        offset: u64,
        bytes: &[u8],
        mut progress: impl FnMut(u64),
    ) -> Result<(), CliFailure> {
        match self {
            Self::Sparse(sparse) => sparse.put(offset, bytes)?,
            Self::Stream { output, at } => {
                zeros(output, at, offset, &mut progress)?;
                output.put(|writer| writer.write_all(bytes))?;
                *at += bytes.len() as u64;
            }
        }
        progress(offset + bytes.len() as u64);
        Ok(())
    }

    /// Extends the destination to `length` bytes. A file appears under its name.
    pub(super) fn finish(
        self,
        length: u64,
        mut progress: impl FnMut(u64),
    ) -> Result<(), CliFailure> {
        match self {
            Self::Sparse(sparse) => sparse.publish(length),
            Self::Stream { mut output, mut at } => {
                zeros(&mut output, &mut at, length, &mut progress)?;
                output.finish()
            }
        }
    }
}

/// Writes zeros from `at` up to `end`.
fn zeros(
    output: &mut OutputStream,
    at: &mut u64,
    end: u64,
    progress: &mut impl FnMut(u64),
) -> Result<(), CliFailure> {
    while *at < end {
        let length = usize::try_from(end - *at)
            .unwrap_or(ZERO_PAGE.len())
            .min(ZERO_PAGE.len());
        output.put(|writer| writer.write_all(&ZERO_PAGE[..length]))?;
        *at += length as u64;
        progress(*at);
    }
    Ok(())
}

/// A file without a name until it is complete, so that an error or Ctrl-C leaves the existing file
/// in place. Where the file system has no unnamed files, it has a temporary name.
pub(super) struct SparseFile {
    file: File,
    path: PathBuf,
    temporary: PathBuf,
    /// Whether the file has its temporary name.
    named: bool,
}

impl SparseFile {
    /// Creates the file. `replaced` describes the existing file of this name; `unnamed` creates a
    /// file without a name, and may fail.
    fn create(
        path: &Path,
        replaced: Option<&Metadata>,
        unnamed: impl FnOnce(&Path) -> io::Result<File>,
    ) -> Result<Self, CliFailure> {
        let failed = |error| CliFailure::input_output(path.display(), error);
        // Replaces the target of a symbolic link, not the link.
        let path = match replaced {
            Some(_) => std::fs::canonicalize(path).map_err(failed)?,
            None => path.to_owned(),
        };
        let name = path
            .file_name()
            .ok_or_else(|| failed(io::ErrorKind::IsADirectory.into()))?;
        let temporary = path.with_file_name(format!(
            ".{}.{}.partial",
            name.display(),
            std::process::id()
        ));
        let (file, named) = match unnamed(&path) {
            Ok(file) => (file, false),
            Err(_) => (File::create_new(&temporary).map_err(failed)?, true),
        };
        let sparse = Self {
            file,
            path,
            temporary,
            named,
        };
        if let Some(metadata) = replaced {
            // A user who could not read the old file must not be able to read the new one.
            sparse
                .file
                .set_permissions(metadata.permissions())
                .map_err(|error| sparse.failed(error))?;
        }
        Ok(sparse)
    }

    fn failed(&self, error: io::Error) -> CliFailure {
        CliFailure::input_output(self.path.display(), error)
    }

    /// Writes the pages that are not all zeros; adjacent ones with one system call.
    fn put(&self, offset: u64, bytes: &[u8]) -> Result<(), CliFailure> {
        let is_zero = |page: &[u8]| *page == ZERO_PAGE[..page.len()];
        let mut at = 0;
        for run in bytes
            .chunks(ZERO_PAGE.len())
            .collect::<Vec<_>>()
            .chunk_by(|a, b| is_zero(a) == is_zero(b))
        {
            let length: usize = run.iter().map(|page| page.len()).sum();
            if !is_zero(run[0]) {
                let written = self
                    .file
                    .write_all_at(&bytes[at..at + length], offset + at as u64);
                written.map_err(|error| self.failed(error))?;
            }
            at += length;
        }
        Ok(())
    }

    /// Sets the length and gives the file its name.
    fn publish(mut self, length: u64) -> Result<(), CliFailure> {
        self.file
            .set_len(length)
            .map_err(|error| self.failed(error))?;
        if !self.named {
            let descriptor = format!("{DESCRIPTORS}/{}", self.file.as_raw_fd());
            let follow = AtFlags::AT_SYMLINK_FOLLOW;
            let linked = nix::unistd::linkat(
                AT_FDCWD,
                descriptor.as_str(),
                AT_FDCWD,
                &self.temporary,
                follow,
            );
            linked.map_err(|error| self.failed(error.into()))?;
            self.named = true;
        }
        std::fs::rename(&self.temporary, &self.path).map_err(|error| self.failed(error))?;
        self.named = false;
        Ok(())
    }
}

impl Drop for SparseFile {
    fn drop(&mut self) {
        if self.named {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Creates a file without a name in the folder of `path`.
fn unnamed(path: &Path) -> io::Result<File> {
    // Without /proc, the file could not get a name later.
    std::fs::metadata(DESCRIPTORS)?;
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    OpenOptions::new()
        .write(true)
        .custom_flags(OFlag::O_TMPFILE.bits())
        .open(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn export_works_on_a_file_system_without_unnamed_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("raw");
        let names = || std::fs::read_dir(folder.path()).unwrap().count();
        let create =
            || SparseFile::create(&path, None, |_| Err(io::ErrorKind::Unsupported.into())).unwrap();
        let dropped = create();
        dropped.put(0, b"x").unwrap();
        assert_eq!(names(), 1);
        drop(dropped);
        assert_eq!(names(), 0);
        let sparse = create();
        sparse.put(2, b"xy").unwrap();
        sparse.publish(5).unwrap();
        assert_eq!(
            (std::fs::read(&path).unwrap().as_slice(), names()),
            (&b"\0\0xy\0"[..], 1)
        );
    }
}
