//! Starts the write-back of a file while more of it is produced.

use nix::errno::Errno;
use nix::libc;
use std::os::fd::{AsFd, AsRawFd};

/// Starts to write `length` bytes from `offset` to the disk, see `sync_file_range(2)`. Nothing is
/// durable before `fsync(2)`, which then has less to wait for.
pub fn begin(file: impl AsFd, offset: u64, length: u64) -> nix::Result<()> {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return Err(Errno::EOVERFLOW);
    };
    let descriptor = file.as_fd().as_raw_fd();
    // SAFETY: no memory is passed; the descriptor is open as long as the borrow of `file`.
    let result =
        unsafe { libc::sync_file_range(descriptor, offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    Errno::result(result).map(drop)
}
