//! The I/O of one connection: the look-up of the server's name, the addresses to try, and the socket.
//! It knows nothing of the protocol.

use dsm_core::net::{self, KeepAliveTimes, LookUp, MsgFlags, Resolution, Stream};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// How long the machine of a server may leave packets unanswered, or two probes, before the
/// connection is given up for another. A healthy machine answers also while dsmd is busy or stopped,
/// and in this time the kernel sends a lost packet again four times.
const MAX_SILENCE: Duration = Duration::from_secs(2);

/// The probes of the kernel to a machine that is silent: they tell one that is gone from one that
/// only has no reply yet.
const KEEP_ALIVE: KeepAliveTimes = KeepAliveTimes {
    idle: 1,
    interval: 1,
    probes: 3,
};

/// How long a receive that waits for its bytes does so at most.
pub(super) const RECEIVE_WAIT: Duration = Duration::from_millis(100);

/// Whether a receive waits for bytes that are not there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReceiveMode {
    /// It takes what is there.
    AtOnce,
    /// It waits for the first bytes, for [`RECEIVE_WAIT`] at most.
    Wait,
    /// It waits until the target is full, for [`RECEIVE_WAIT`] at most.
    Fill,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Link {
    state: LinkState,
    /// Addresses of the server that this attempt to connect has not tried yet.
    candidates: std::vec::IntoIter<SocketAddr>,
    /// The kernel takes no more until the socket is writable.
    is_blocked: bool,
}

#[derive(Debug, Default)]
enum LinkState {
    #[default]
    Closed,
    Resolving(LookUp),
    Connecting(Stream),
    Established(Stream),
}

impl Link {
    /// Begins to look up the server's address. Returns the outcome if it is known at once.
    pub(super) fn look_up(&mut self, address: &str) -> Option<Result<(), String>> {
        match net::resolve(address) {
            Resolution::Ready(found) => Some(self.resolved(found)),
            Resolution::Pending(look_up) => {
                self.state = LinkState::Resolving(look_up);
                None
            }
        }
    }

    /// The outcome of the look-up that was begun; `None` while there is none.
    pub(super) fn look_up_outcome(&mut self) -> Option<Result<(), String>> {
        let LinkState::Resolving(look_up) = &self.state else {
            return None;
        };
        let found = look_up.answer()?;
        self.state = LinkState::Closed;
        Some(self.resolved(found))
    }

    fn resolved(&mut self, found: io::Result<Vec<SocketAddr>>) -> Result<(), String> {
        let found = found.map_err(|error| format!("its name is not resolved: {error}"))?;
        if found.is_empty() {
            return Err("its name has no address".into());
        }
        self.candidates = found.into_iter();
        Ok(())
    }

    /// Begins to connect to the next address; `None` when every address was tried.
    pub(super) fn connect_next(&mut self) -> Option<io::Result<()>> {
        self.state = LinkState::Closed;
        let candidate = self.candidates.next()?;
        let begun = net::begin_connect(candidate)
            .and_then(|stream| stream.set_keep_alive(KEEP_ALIVE).map(|()| stream));
        Some(begun.map(|stream| self.state = LinkState::Connecting(stream)))
    }

    /// The socket that was connecting is writable, or failed. The link is established, or closed.
    pub(super) fn finish_connecting(&mut self) -> io::Result<()> {
        let LinkState::Connecting(stream) = std::mem::take(&mut self.state) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        net::finish_connect(&stream)?;
        make_blocking(&stream)?;
        self.state = LinkState::Established(stream);
        Ok(())
    }

    /// Closes the socket, and ends what was begun.
    pub(super) fn close(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.state, LinkState::Connecting(_))
    }

    #[inline]
    fn stream(&self) -> Result<&Stream, Errno> {
        match &self.state {
            LinkState::Established(stream) => Ok(stream),
            _ => Err(Errno::ENOTCONN),
        }
    }

    /// Sends without waiting; returns how many bytes the kernel took. On [`Errno::EAGAIN`] it
    /// notes that the socket is to become writable first.
    #[inline]
    pub(super) fn send(&mut self, head: &[u8], tail: &[u8]) -> nix::Result<usize> {
        let sent = self.stream()?.send_both(head, tail, MsgFlags::MSG_DONTWAIT);
        self.is_blocked = sent == Err(Errno::EAGAIN);
        sent
    }

    /// Receives into `target` first and into `space` what is left; zero when the server has closed
    /// the connection.
    #[inline]
    pub(super) fn receive(
        &self,
        target: &mut [u8],
        space: &mut [u8],
        mode: ReceiveMode,
    ) -> nix::Result<usize> {
        let flags = match mode {
            ReceiveMode::AtOnce => MsgFlags::MSG_DONTWAIT,
            ReceiveMode::Wait => MsgFlags::empty(),
            ReceiveMode::Fill => MsgFlags::MSG_WAITALL,
        };
        self.stream()?.receive_both(target, space, flags)
    }

    /// Whether the kernel took less than was to be sent, and has not been asked since.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Whether all that it waits for are bytes of an established connection.
    pub(super) fn awaits_bytes(&self) -> bool {
        matches!(self.state, LinkState::Established(_)) && !self.is_blocked
    }

    /// What to wait for with `poll(2)`; `None` when it is closed.
    pub(super) fn for_poll(&self) -> Option<PollFd<'_>> {
        Some(match &self.state {
            LinkState::Closed => return None,
            LinkState::Resolving(look_up) => PollFd::new(look_up.for_poll(), PollFlags::POLLIN),
            LinkState::Connecting(stream) => PollFd::new(stream.for_poll(), PollFlags::POLLOUT),
            LinkState::Established(stream) if self.is_blocked => {
                PollFd::new(stream.for_poll(), PollFlags::POLLIN | PollFlags::POLLOUT)
            }
            LinkState::Established(stream) => PollFd::new(stream.for_poll(), PollFlags::POLLIN),
        })
    }

    /// Whether the server has closed this idle connection, or sent bytes without a request.
    pub(super) fn is_stale(&self) -> bool {
        matches!(&self.state, LinkState::Established(stream) if !stream.is_quiet())
    }

    /// Whether the server's machine, or the network to it, has failed since the connection was
    /// established.
    pub(super) fn is_mute(&self) -> bool {
        matches!(&self.state, LinkState::Established(stream) if stream.is_mute(MAX_SILENCE))
    }
}

/// Makes the calls of an established connection wait, unless they say otherwise: a receive that
/// waits by itself saves the system call that would wait before it.
fn make_blocking(stream: &Stream) -> io::Result<()> {
    stream.set_receive_timeout(RECEIVE_WAIT)?;
    stream.set_nonblocking(false)
}
