//! How wide a terminal is.

use std::os::fd::{AsFd, AsRawFd};

/// The columns of the terminal behind `file`, see `ioctl_tty(2)`. None when it is no terminal, or
/// does not know.
pub fn columns(file: impl AsFd) -> Option<usize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one `winsize` to the pointer, which is to one that lives through
    // the call; the descriptor is open as long as the borrow of `file`.
    let answer = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (answer == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}
