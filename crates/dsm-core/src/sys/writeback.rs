//! Having a file written while more of it is made.

use nix::errno::Errno;
use nix::libc;
use std::os::fd::{AsFd, AsRawFd};

/// Begins to write the bytes from `offset` on to the disk, see `sync_file_range(2)`. Makes nothing
/// durable: that takes `fsync(2)`, which then has less to wait for.
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
