//! The names of a segment's files in /dev/shm, and safe ways to open, create and remove what has
//! these names.
//!
//! Any user may create files there, under any name. The directory is sticky: only the owner of a
//! file, the owner of the directory and root can remove or replace it. So once a name was found to
//! be a file of a trusted user it stays one, and opening the name later opens that file.

use super::SegmentError;
use super::geometry::LOCKS;
use crate::layout::Layout;
use crate::sys::semaphore::{self, DIRECTORY, Semaphore};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open, renameat};
use nix::libc::{S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK};
use nix::sys::stat::{FileStat, Mode, fchmod, lstat};
use nix::sys::uio::pwrite;
use nix::unistd::{Gid, Uid, User, geteuid, unlink};
use std::ffi::CString;
use std::fmt;
use std::path::{Path, PathBuf};

/// The uid that the kernel shows for a user that has no id in the user namespace, see
/// `user_namespaces(7)`.
const OVERFLOW_USER: u32 = 65534;

/// The number of users in the initial user namespace: the third number of its map.
const ALL_USERS: &str = "4294967295";

/// The mode of every file here: read and write for the owner and the group.
pub(super) const MODE: Mode = Mode::from_bits_truncate(0o660);

/// The name of the shared-memory object of server `index`, as `shm_open(3)` takes it: with its
/// slash.
pub(super) fn object(layout: &Layout, index: u32) -> String {
    format!("/{}.{index}", layout.name())
}

/// The name of the copy area of the object `name`.
pub(super) fn copy_area(name: &str) -> String {
    format!("{name}.copies")
}

/// The path of the object or copy area `name`.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name.trim_start_matches('/'))
}

/// The name of the semaphore of lock `lock` of the object `name`, as `sem_open(3)` takes it.
fn semaphore(name: &str, lock: usize) -> CString {
    // Neither a layout's name nor a number contains a zero byte; the kernel would refuse an empty
    // name.
    CString::new(format!("{name}.{lock:02}")).unwrap_or_default()
}

/// The path of that semaphore's file, see `sem_overview(7)`.
pub(super) fn semaphore_path(name: &str, lock: usize) -> PathBuf {
    path(&format!("/sem.{}.{lock:02}", name.trim_start_matches('/')))
}

/// The temporary file in which a semaphore is created before it gets its name. Only one server at a
/// time creates those of `name`. A file that a killed server left is removed with the other names,
/// or before the next semaphore is created.
fn temporary_semaphore(name: &str) -> PathBuf {
    path(&format!("/sem.{}.new", name.trim_start_matches('/')))
}

/// The owner of a file, shown with the user's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileOwner(pub u32);

impl fmt::Display for FileOwner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(id) = *self;
        if id == OVERFLOW_USER && !has_all_users() {
            return formatter
                .write_str("another user (ls -l says which: this process is in a user namespace)");
        }
        match User::from_uid(Uid::from_raw(id)) {
            Ok(Some(user)) => write!(formatter, "user {} (uid {id})", user.name),
            _ => write!(formatter, "a user without a name (uid {id})"),
        }
    }
}

/// The group of a file, shown with its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileGroup(pub u32);

impl fmt::Display for FileGroup {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(id) = *self;
        match nix::unistd::Group::from_gid(Gid::from_raw(id)) {
            Ok(Some(group)) => write!(formatter, "group {} (gid {id})", group.name),
            _ => write!(formatter, "a group without a name (gid {id})"),
        }
    }
}

/// Whether this process is in a user namespace that maps every user, so that none appears as
/// [`OVERFLOW_USER`].
fn has_all_users() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().nth(2) == Some(ALL_USERS))
}

/// The kind of a file that has the name of a shared-memory object or a semaphore and is neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileKind(u32);

impl fmt::Display for FileKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self.0 {
            S_IFDIR => "a directory",
            S_IFLNK => "a symbolic link",
            S_IFIFO => "a FIFO",
            S_IFSOCK => "a socket",
            _ => "a device",
        })
    }
}

/// Refuses a file that is not regular.
pub(super) fn check_kind(status: &FileStat, path: &Path) -> Result<(), SegmentError> {
    match status.st_mode & S_IFMT {
        S_IFREG => Ok(()),
        kind => {
            let (path, owner) = (path.to_owned(), FileOwner(status.st_uid));
            Err(SegmentError::NotAnObject {
                path,
                kind: FileKind(kind),
                owner,
            })
        }
    }
}

/// The error for a file that belongs to another user.
pub(super) fn not_ours(path: PathBuf, owner: u32) -> SegmentError {
    SegmentError::NotOurs {
        path,
        owner: FileOwner(owner),
        own: FileOwner(geteuid().as_raw()),
    }
}

/// The error for a name that cannot be opened, created, replaced or removed. It names the file that
/// has the name, if that is the cause.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> SegmentError {
    move |error| {
        let own = geteuid().as_raw();
        if let Ok(status) = lstat(path) {
            if let Err(error) = check_kind(&status, path) {
                return error;
            }
            // The kernel may refuse a file of another user even to root: see fs.protected_regular
            // in proc_sys_fs(5).
            if status.st_uid != own && [Errno::EACCES, Errno::EPERM, Errno::EEXIST].contains(&error)
            {
                return not_ours(path.to_owned(), status.st_uid);
            }
        }
        SegmentError::system(action, &path.to_string_lossy())(error)
    }
}

/// The error for a segment that a participant other than its server cannot open. It says who can
/// open it, if the mode is the cause.
pub(super) fn not_opened(name: &str) -> impl FnOnce(Errno) -> SegmentError {
    move |error| match lstat(&path(name)) {
        Ok(status) if error == Errno::EACCES && status.st_mode & MODE.bits() == MODE.bits() => {
            let (owner, group) = (FileOwner(status.st_uid), FileGroup(status.st_gid));
            SegmentError::NoAccess {
                name: name.to_owned(),
                owner,
                group,
                own: FileOwner(geteuid().as_raw()),
            }
        }
        _ => SegmentError::system("open", name)(error),
    }
}

/// Opens semaphore `lock` of the object `name`, whose owner is trusted.
///
/// # Errors
/// [`SegmentError::NotOurs`] for a semaphore of a third user, who could shorten its file: the next
/// wait would be a SIGBUS.
pub(super) fn open_semaphore(
    name: &str,
    lock: usize,
    owner: u32,
) -> Result<Semaphore, SegmentError> {
    let path = semaphore_path(name, lock);
    let failed = || failed("open", &path);
    let status = lstat(&path).map_err(failed())?;
    check_kind(&status, &path)?;
    if ![owner, 0].contains(&status.st_uid) {
        return Err(not_ours(path, status.st_uid));
    }
    if !has_right_size(&status) {
        return Err(SegmentError::NotReady {
            name: name.to_owned(),
        });
    }
    Semaphore::open(&semaphore(name, lock)).map_err(failed())
}

/// As [`open_semaphore`], for the server: recreates a semaphore that is missing or damaged. A
/// semaphore only says who is to be woken, and waits are short, so nothing is lost.
pub(super) fn restore_semaphore(name: &str, lock: usize) -> Result<Semaphore, SegmentError> {
    let path = semaphore_path(name, lock);
    match lstat(&path) {
        Err(Errno::ENOENT) => make_semaphore(name, lock)?,
        Ok(status)
            if status.st_uid == geteuid().as_raw()
                && is_regular(&status)
                && !has_right_size(&status) =>
        {
            make_semaphore(name, lock)?;
        }
        _ => {}
    }
    open_semaphore(name, lock, geteuid().as_raw())
}

/// Creates semaphore `lock` of the object `name` with the value zero, and replaces an existing one.
///
/// It does not use `sem_open(3)`, which creates the semaphore under a random temporary name: a
/// server that is killed at that moment would leave this name in shared memory for ever.
pub(super) fn make_semaphore(name: &str, lock: usize) -> Result<(), SegmentError> {
    let (temporary, path) = (temporary_semaphore(name), semaphore_path(name, lock));
    let made = || failed("make", &temporary);
    match unlink(&temporary) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(error) => return Err(made()(error)),
    }
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = open(&temporary, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(made())?;
    // A write of so few bytes is not split.
    let written = fchmod(&file, MODE).and_then(|()| pwrite(&file, &semaphore::fresh(), 0));
    let finished = written.map_err(made()).and_then(|_| {
        renameat(AT_FDCWD, &temporary, AT_FDCWD, &path).map_err(failed("make", &path))
    });
    finished.inspect_err(|_| {
        // The caller gets the first error.
        let _ = unlink(&temporary);
    })
}

/// Removes all files that belong to the object `name`, including those of an unfinished creation.
/// Only regular files are removed: [`SegmentError::NotAnObject`] tells the user to remove others by
/// hand. Errors are ignored: the caller has an error already.
pub(super) fn remove_parts(name: &str) {
    remove_semaphores(name);
    remove(&path(&copy_area(name)));
}

/// The same for the semaphores. One that cannot be removed is an error when it is created.
pub(super) fn remove_semaphores(name: &str) {
    (0..LOCKS).for_each(|lock| remove(&semaphore_path(name, lock)));
    remove(&temporary_semaphore(name));
}

fn remove(path: &Path) {
    if lstat(path).is_ok_and(|status| is_regular(&status)) {
        let _ = unlink(path);
    }
}

fn is_regular(status: &FileStat) -> bool {
    status.st_mode & S_IFMT == S_IFREG
}

fn has_right_size(status: &FileStat) -> bool {
    u64::try_from(status.st_size).is_ok_and(|size| size >= semaphore::SIZE as u64)
}
