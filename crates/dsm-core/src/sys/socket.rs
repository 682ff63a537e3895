//! Calls on sockets that no crate wraps safely: the part of [`crate::net`] that is `unsafe`.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// The number of 32-bit words at the beginning of the kernel's `struct tcp_info` that are read: up
/// to `tcpi_last_ack_recv`.
const TCP_INFO_WORDS: usize = 15;

/// What the kernel knows of the peer's acknowledgements on a TCP connection, see `tcp(7)`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acknowledgements {
    /// Probes, of keep-alive or of a closed window, since the last acknowledgement.
    pub(crate) unanswered_probes: u8,
    /// Packets that were sent and not acknowledged.
    pub(crate) unacknowledged: u32,
    /// Time since data was sent last, also again.
    pub(crate) sent: Duration,
    /// Time since the last packet of the peer with an acknowledgement.
    pub(crate) answered: Duration,
}

/// The state of acknowledgements; `None` for a socket that is not TCP.
pub(crate) fn acknowledgements(socket: impl AsFd) -> Option<Acknowledgements> {
    let mut words = [0_u32; TCP_INFO_WORDS];
    let mut length = libc::socklen_t::try_from(size_of_val(&words)).ok()?;
    // SAFETY: the kernel writes at most `length` bytes, all of which are in `words`; both pointers
    // are to what lives through the call, any bytes are valid words, and the descriptor is open as
    // long as the borrow of `socket`.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            words.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if answer != 0 || usize::try_from(length).ok()? < size_of_val(&words) {
        return None;
    }
    // `tcpi_probes` is the byte at 3, `tcpi_unacked` the word at 24, `tcpi_last_data_sent`
    // at 44, `tcpi_last_ack_recv` at 56.
    let milliseconds = |word: u32| Duration::from_millis(word.into());
    Some(Acknowledgements {
        unanswered_probes: words[0].to_ne_bytes()[3],
        unacknowledged: words[6],
        sent: milliseconds(words[11]),
        answered: milliseconds(words[14]),
    })
}

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
