//! The processor that handles a connection's incoming packets.

use std::os::fd::{AsFd, AsRawFd};

/// The processor on which the kernel handled the last packet, see `SO_INCOMING_CPU` in `socket(7)`;
/// on a local connection that of the sender. `None` before the first packet.
pub fn processor(socket: impl AsFd) -> Option<usize> {
    let mut number: libc::c_int = -1;
    let mut length = libc::socklen_t::try_from(size_of_val(&number)).ok()?;
    // SAFETY: the option is one `int`, the length says that there is room for it, and both pointers
    // are to what lives through the call; the descriptor is open as long as the borrow of `socket`.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_INCOMING_CPU,
            (&raw mut number).cast(),
            &raw mut length,
        )
    };
    if answer == 0 {
        usize::try_from(number).ok()
    } else {
        None
    }
}
