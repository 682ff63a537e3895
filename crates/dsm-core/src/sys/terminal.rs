//! The width of a terminal.

use std::os::fd::{AsFd, AsRawFd};

/// The number of columns of the terminal behind `file`, see `ioctl_tty(2)`. `None` when `file` is
/// no terminal, or the terminal does not know its width.
pub fn columns(file: impl AsFd) -> Option<usize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one `winsize` through the pointer, whose target lives through the
    // call; the descriptor is open as long as the borrow of `file`.
    let answer = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (answer == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}
