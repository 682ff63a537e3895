//! The send queue of a local socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Whether the peer of a local socket has not yet read everything that was sent to it, see
/// `SIOCOUTQ` in `unix(7)`.
pub fn is_unread(socket: impl AsFd) -> io::Result<bool> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, which has the number of TIOCOUTQ, writes one `int` through the pointer,
    // whose target lives through the call; the descriptor is open as long as the borrow of
    // `socket`.
    let answer = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if answer == 0 {
        Ok(bytes > 0)
    } else {
        Err(io::Error::last_os_error())
    }
}
