//! Open-file-description locks on single bytes of a file, see `fcntl_locking(2)`.
//!
//! The kernel releases them when the last descriptor of the open file is closed, at the latest when
//! every thread of the process has ended. So they show which processes live, without trust in a
//! pid.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::os::fd::AsFd;

/// Tries to lock the byte at `offset`. `false` when another open file holds it.
pub(crate) fn try_lock(file: impl AsFd, offset: i64) -> nix::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&byte(libc::F_WRLCK, offset))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Unlocks the byte at `offset`, if this open file holds it.
pub(crate) fn unlock(file: impl AsFd, offset: i64) -> nix::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&byte(libc::F_UNLCK, offset))).map(drop)
}

/// Whether an open file other than this one holds the byte at `offset`.
pub(crate) fn is_locked_elsewhere(file: impl AsFd, offset: i64) -> nix::Result<bool> {
    let mut lock = byte(libc::F_WRLCK, offset);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

// The constants are small numbers; the C structure stores them as shorts.
#[allow(clippy::cast_possible_truncation)]
fn byte(kind: libc::c_int, offset: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: offset,
        l_len: 1,
        l_pid: 0,
    }
}
