//! A file that is being written: under a name of its own, locked by its writer, and under its final
//! name only when it is whole. The lock goes when the writer dies, which is how what it left is
//! told from what another still writes.

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

/// How often a name is tried that others remove at the same time.
const ATTEMPTS: usize = 16;

/// Who may read a snapshot: it is the memory. The owner's group, like the segment's.
const MODE: u32 = 0o640;

/// After so many bytes the kernel is told to write them, so that the disk works while pages are
/// still on their way.
const WRITEBACK: u64 = 8 << 20;

/// A file that is removed unless it is published.
pub(super) struct Partial {
    path: PathBuf,
    file: Flock<File>,
    /// Bytes written.
    written: u64,
    /// Bytes of them that the kernel was told to write to the disk.
    begun: u64,
    published: bool,
}

/// What became of a file that was to be removed if its writer is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stale {
    /// It is gone.
    Removed,
    /// Its writer lives.
    Alive,
    /// It is not a snapshot that is being written.
    Foreign,
}

impl Partial {
    /// A new empty file beside `path`; what a dead process left there is removed.
    pub(super) fn create(path: &Path) -> Result<Self, WriteError> {
        let mut name = path.as_os_str().to_owned();
        name.push(PARTIAL_SUFFIX);
        let path = PathBuf::from(name);
        for _ in 0..ATTEMPTS {
            let opened = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(MODE)
                .open(&path);
            match opened {
                Ok(file) => {
                    // Between the two steps somebody may have taken the file for a dead one's.
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
                        Ok(Stale::Removed) => {}
                        Ok(Stale::Alive) => return Err(WriteError::UnderWay(path)),
                        Ok(Stale::Foreign) => return Err(WriteError::Exists(path)),
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

    /// Makes what was written durable; still under the name of its own.
    pub(super) fn sync(&self) -> Result<(), WriteError> {
        self.file
            .sync_all()
            .map_err(WriteError::system("cannot write", &self.path))
    }

    /// Gives it the name `path`, durably. `Ok(false)` when something has that name already.
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
            // Whoever is told that it failed must not find it later.
            let _ = std::fs::remove_file(path);
            WriteError::system("cannot write", directory)(source)
        })
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = (&*self.file).write(bytes)?;
        self.written += count as u64;
        if self.written - self.begun >= WRITEBACK {
            // Only a head start: the sync in the end counts, and where this cannot be done it has
            // more to do.
            let _ = writeback::begin(&*self.file, self.begun, self.written - self.begun);
            self.begun = self.written;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn rename_without_overwriting(from: &Path, to: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => Ok(()),
        // File systems without it, such as NFS, still refuse a second link to a name.
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens a file to lock it. For writing, too, where that is allowed: NFS locks no other one
/// exclusively.
fn open_to_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    match options.clone().write(true).open(path) {
        // Of another user, in a directory of ours: other file systems lock it so.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => options.open(path),
        opened => opened,
    }
}

/// Removes the file at `path` if it is the beginning of a snapshot whose writer is dead. `empty`
/// says whether an empty one is one: by its name.
pub(super) fn remove_stale(path: &Path, empty: bool) -> io::Result<Stale> {
    let file = match open_to_lock(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Stale::Removed),
        // A link, a directory, or a pipe that nothing reads.
        Err(error)
            if [Errno::ELOOP, Errno::EISDIR, Errno::ENXIO]
                .map(|errno| Some(errno as i32))
                .contains(&error.raw_os_error()) =>
        {
            return Ok(Stale::Foreign);
        }
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Ok(Stale::Foreign);
    }
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) => file,
        Err((_, Errno::EWOULDBLOCK)) => return Ok(Stale::Alive),
        Err((_, error)) => return Err(error.into()),
    };
    let mut beginning = Vec::new();
    (&*file)
        .take(MAGIC.len() as u64)
        .read_to_end(&mut beginning)?;
    if !MAGIC.starts_with(&beginning) || beginning.is_empty() && !empty {
        return Ok(Stale::Foreign);
    }
    // Since the lock was taken, the name may have passed to the file of a living writer.
    let (locked, named) = (file.metadata()?, std::fs::symlink_metadata(path));
    if named.is_ok_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino())) {
        std::fs::remove_file(path)?;
    }
    Ok(Stale::Removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, fcntl};

    /// `flock(2)` of a file on NFS is a lock for writing, and the answer EBADF for one that is open
    /// for reading only.
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
