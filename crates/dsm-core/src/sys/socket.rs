//! Calls on sockets that no crate wraps safely: the part of [`crate::net`] that is `unsafe`.

use std::os::fd::{AsFd, AsRawFd};

/// The processor on which the kernel handled the last packet, see `SO_INCOMING_CPU` in `socket(7)`;
/// on a local connection that of the sender. `None` before the first packet.
pub(crate) fn processor(socket: impl AsFd) -> Option<usize> {
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

/// The descriptors that systemd passed to this process, see `sd_listen_fds(3)`. To be called once.
#[cfg(feature = "service")]
pub(crate) fn inherited() -> std::io::Result<Vec<std::os::fd::OwnedFd>> {
    use std::os::fd::{FromRawFd, OwnedFd};
    let descriptors = sd_notify::listen_fds()?;
    // SAFETY: the service manager opened the descriptors for this process, as LISTEN_PID says, and
    // no other object here owns them.
    Ok(descriptors
        .map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) })
        .collect())
}
