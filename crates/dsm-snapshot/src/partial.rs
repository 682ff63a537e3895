//! A file that is being written. Its name ends in `.partial` and its writer holds a lock on it; it
//! gets its final name only when it is complete. The kernel drops the lock when the writer dies,
//! which tells the remains of a dead writer from the file of a running one.

use super::error::WriteError;
use super::format::MAGIC;
use super::name::PARTIAL_SUFFIX;
use dsm_core::sys::writeback;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, OFlag, RenameFlags, renameat2};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How often creating the file is tried when other processes remove it at the same time.
const MAX_CREATE_ATTEMPTS: usize = 16;

/// The mode of a snapshot. It contains the memory, so only the owner and the group may read it, as
/// with the segment.
const MODE: u32 = 0o640;

/// After so many bytes, the kernel is asked to write them, so that the disk is busy while more
/// pages arrive.
const WRITEBACK_BYTES: u64 = 8 << 20;

/// A partial file. Dropping it removes it, unless it was published.
pub(super) struct PartialFile {
    path: PathBuf,
    file: Flock<File>,
    /// Bytes written.
    written: u64,
    /// Bytes of them that the kernel was asked to write to the disk.
    begun: u64,
    published: bool,
}

/// What [`remove_stale`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StaleOutcome {
    /// Its writer is dead, and the file was removed.
    Removed,
    /// Its writer is running.
    Alive,
    /// It is not a partial snapshot.
    Foreign,
}

impl PartialFile {
    /// Creates an empty file in the directory of `path`, and removes what a dead process left under
    /// its name.
    pub(super) fn create(path: &Path) -> Result<Self, WriteError> {
        let mut name = path.as_os_str().to_owned();
        name.push(PARTIAL_SUFFIX);
        let path = PathBuf::from(name);
        for _ in 0..MAX_CREATE_ATTEMPTS {
            let opened = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(MODE)
                .open(&path);
            match opened {
                Ok(file) => {
                    // Between creating and locking the file, another process may have taken it for
                    // that of a dead writer, and removed it.
                    if let Ok(file) = Flock::lock(file, FlockArg::LockExclusiveNonblock)
                        && file.metadata().is_ok_and(|file| file.nlink() > 0)
                    {
                        return Ok(Self {
                            path,
                            file,
                            written: 0,
                            begun: 0,
                            published: false,
                        });
                    }
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    match remove_stale(&path, true) {
                        Ok(StaleOutcome::Removed) => {}
                        Ok(StaleOutcome::Alive) => return Err(WriteError::UnderWay(path)),
                        Ok(StaleOutcome::Foreign) => return Err(WriteError::Exists(path)),
                        Err(source) => {
                            return Err(WriteError::system("cannot remove", &path)(source));
                        }
                    }
                }
                Err(source) => return Err(WriteError::system("cannot create", &path)(source)),
            }
        }
        Err(WriteError::UnderWay(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the bytes durable. The file keeps the name of a partial file.
    pub(super) fn sync(&self) -> Result<(), WriteError> {
        self.file
            .sync_all()
            .map_err(WriteError::system("cannot write", &self.path))
    }

    /// Renames the file to `path`, durably. `Ok(false)` when that name is taken.
    pub(super) fn publish(&mut self, path: &Path) -> Result<bool, WriteError> {
        match rename_without_overwriting(&self.path, path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
            Err(source) => {
                return Err(WriteError::system("cannot rename the snapshot to", path)(
                    source,
                ));
            }
        }
        self.published = true;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map(|()| true).map_err(|source| {
            // The caller reports a failure, so the file must not exist after a crash.
            let _ = std::fs::remove_file(path);
            WriteError::system("cannot write", directory)(source)
        })
    }
}

impl Write for PartialFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = (&*self.file).write(bytes)?;
        self.written += count as u64;
        if self.written - self.begun >= WRITEBACK_BYTES {
            // An optimisation: only the sync at the end counts, and it writes what this could not.
            let _ = writeback::begin(&*self.file, self.begun, self.written - self.begun);
            self.begun = self.written;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn rename_without_overwriting(from: &Path, to: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => Ok(()),
        // File systems without RENAME_NOREPLACE, such as NFS, refuse a hard link to a name that
        // exists.
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens a file to lock it; for writing, too, where that is allowed, because NFS grants an
/// exclusive lock only on a file that is open for writing.
fn open_to_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    match options.clone().write(true).open(path) {
        // A file of another user in our directory. File systems other than NFS lock it when it is
        // open for reading.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => options.open(path),
        opened => opened,
    }
}

/// Removes the file at `path` if it is a partial snapshot whose writer is dead. `empty` says
/// whether an empty file counts as one, which its name decides.
pub(super) fn remove_stale(path: &Path, empty: bool) -> io::Result<StaleOutcome> {
    let file = match open_to_lock(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(StaleOutcome::Removed),
        // A symbolic link, a directory, or a pipe without a reader.
        Err(error)
            if [Errno::ELOOP, Errno::EISDIR, Errno::ENXIO]
                .map(|errno| Some(errno as i32))
                .contains(&error.raw_os_error()) =>
        {
            return Ok(StaleOutcome::Foreign);
        }
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Ok(StaleOutcome::Foreign);
    }
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => file,
        Err((_, Errno::EWOULDBLOCK)) => return Ok(StaleOutcome::Alive),
        Err((_, error)) => return Err(error.into()),
    };
    let mut beginning = Vec::new();
    (&*file)
        .take(MAGIC.len() as u64)
        .read_to_end(&mut beginning)?;
    if !MAGIC.starts_with(&beginning) || beginning.is_empty() && !empty {
        return Ok(StaleOutcome::Foreign);
    }
    // Since the file was opened, the name may have passed to the file of a running writer.
    let (locked, named) = (file.metadata()?, std::fs::symlink_metadata(path));
    if named.is_ok_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino())) {
        std::fs::remove_file(path)?;
    }
    Ok(StaleOutcome::Removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, fcntl};

    /// On NFS, `flock(2)` locks for writing, and fails with EBADF on a file that is open for
    /// reading only.
    #[test]
    fn a_file_is_open_for_writing_when_it_is_locked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("first.dsnap.partial");
        std::fs::write(&path, MAGIC).unwrap();
        let flags = OFlag::from_bits_retain(
            fcntl(open_to_lock(&path).unwrap(), FcntlArg::F_GETFL).unwrap(),
        );
        assert_eq!(flags & OFlag::O_ACCMODE, OFlag::O_RDWR);
    }
}
