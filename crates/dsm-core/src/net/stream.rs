//! A connection to a peer.

use crate::sys::socket;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval};
use nix::sys::socket::sockopt::{TcpNoDelay, TcpUserTimeout};
use nix::sys::socket::{MsgFlags, recv, recvmsg, send, sendmsg, setsockopt};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// When keep-alive finds that the machine of a silent peer is gone, see `tcp(7)`.
#[derive(Debug, Clone, Copy)]
pub struct KeepAliveTimes {
    /// Seconds without a packet of the peer until the first probe.
    pub idle: u32,
    /// Seconds between probes.
    pub interval: u32,
    /// Unanswered probes after which the connection is broken.
    pub probes: u32,
}

/// The time in which a machine acknowledges data, in a network with long delays too.
const ANSWER_TIME: Duration = Duration::from_millis(300);

/// A connection to a peer, over TCP or a Unix socket. No call raises SIGPIPE.
///
/// Each method is the system call that its comment names, and nothing else.
#[derive(Debug)]
pub struct Stream {
    // The calls of std on it are those of a socket of any kind, except for the addresses.
    socket: TcpStream,
}

/// A stream whose bytes arrive as the peer sent them: the kernel can put them where they are
/// needed, as into shared memory, without a copy. A stream that is encrypted has none.
#[derive(Debug, Clone, Copy)]
pub struct PlainSocket<'a>(BorrowedFd<'a>);

impl AsFd for PlainSocket<'_> {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0
    }
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Self { socket }
    }
}

impl From<UnixStream> for Stream {
    fn from(socket: UnixStream) -> Self {
        Self {
            socket: OwnedFd::from(socket).into(),
        }
    }
}

// The errors are those of the system calls.
#[allow(clippy::missing_errors_doc)]
impl Stream {
    /// Receives, see `recv(2)`.
    #[inline]
    pub fn receive(&self, buffer: &mut [u8], flags: MsgFlags) -> nix::Result<usize> {
        recv(self.socket.as_raw_fd(), buffer, flags)
    }

    /// Receives into `head` until it is full, then into `tail`; see `recvmsg(2)`, or `recv(2)` if
    /// one of them is empty.
    #[inline]
    pub fn receive_both(
        &self,
        head: &mut [u8],
        tail: &mut [u8],
        flags: MsgFlags,
    ) -> nix::Result<usize> {
        if head.is_empty() {
            return self.receive(tail, flags);
        }
        if tail.is_empty() {
            return self.receive(head, flags);
        }
        let mut parts = [IoSliceMut::new(head), IoSliceMut::new(tail)];
        let received = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, None, flags)?;
        Ok(received.bytes)
    }

    /// Sends, see `send(2)`.
    #[inline]
    pub fn send(&self, bytes: &[u8], flags: MsgFlags) -> nix::Result<usize> {
        send(
            self.socket.as_raw_fd(),
            bytes,
            flags | MsgFlags::MSG_NOSIGNAL,
        )
    }

    /// Sends `head`, then `tail`; see `sendmsg(2)`, or `send(2)` if there is no tail.
    #[inline]
    pub fn send_both(&self, head: &[u8], tail: &[u8], flags: MsgFlags) -> nix::Result<usize> {
        if tail.is_empty() {
            return self.send(head, flags);
        }
        let (socket, flags) = (self.socket.as_raw_fd(), flags | MsgFlags::MSG_NOSIGNAL);
        let parts = [IoSlice::new(head), IoSlice::new(tail)];
        sendmsg::<()>(socket, &parts, &[], flags, None)
    }

    /// The stream as a source of bytes for `Worker::receive`.
    #[inline]
    #[must_use]
    pub fn plain(&self) -> PlainSocket<'_> {
        PlainSocket(self.socket.as_fd())
    }

    /// The descriptor, to wait for with `poll(2)` or `epoll(7)` only.
    #[inline]
    #[must_use]
    pub fn for_poll(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether the stream is ready now, see `poll(2)`; false when it is not known.
    #[must_use]
    pub fn is_ready(&self, awaits: PollFlags) -> bool {
        let mut wait = [PollFd::new(self.for_poll(), awaits)];
        poll(&mut wait, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    /// Whether the stream has neither unread bytes nor ended.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        self.receive(&mut [0], flags) == Err(Errno::EAGAIN)
    }

    /// Whether the peer's machine has been silent for so long although it owes an answer to packets
    /// or to two probes. The kernel of a process that is only stopped still answers. Never true of a
    /// stream that is not TCP.
    #[must_use]
    pub fn is_mute(&self, limit: Duration) -> bool {
        socket::acknowledgements(&self.socket).is_some_and(|peer| {
            // A machine without room for data acknowledges it again whenever it is sent again, which
            // the kernel does less and less often.
            let owes_acknowledgement =
                peer.unacknowledged > 0 && peer.sent >= ANSWER_TIME && peer.sent < peer.answered;
            peer.answered >= limit && (owes_acknowledgement || peer.unanswered_probes >= 2)
        })
    }

    /// The processor on which the kernel handled the last packet; `None` before the first one.
    #[must_use]
    pub fn processor(&self) -> Option<usize> {
        socket::processor(&self.socket)
    }

    /// Closes one or both directions, see `shutdown(2)`.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }

    /// Another descriptor of the same stream.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.socket.try_clone().map(Self::from)
    }

    /// This end's address; an error for a Unix socket.
    pub fn own_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The peer's address; an error for a Unix socket.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        self.socket.peer_addr()
    }

    /// The error that the socket holds, which it then forgets.
    pub(super) fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.socket.take_error()
    }

    /// Whether calls return at once instead of waiting.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking)
    }

    /// The longest wait of a receive that blocks; not zero.
    pub fn set_receive_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.socket.set_read_timeout(Some(timeout))
    }

    /// The longest wait of a send that blocks; not zero.
    pub fn set_send_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.socket.set_write_timeout(Some(timeout))
    }

    /// Sends small messages without delay. TCP only.
    pub fn set_no_delay(&self) -> io::Result<()> {
        Ok(setsockopt(&self.socket, TcpNoDelay, &true)?)
    }

    /// Lets the kernel look for the peer's machine while it is silent. TCP only.
    pub fn set_keep_alive(&self, times: KeepAliveTimes) -> io::Result<()> {
        setsockopt(&self.socket, KeepAlive, &true)?;
        setsockopt(&self.socket, TcpKeepIdle, &times.idle)?;
        setsockopt(&self.socket, TcpKeepInterval, &times.interval)?;
        Ok(setsockopt(&self.socket, TcpKeepCount, &times.probes)?)
    }

    /// Breaks the connection when sent bytes are not acknowledged for so long, or the peer takes no
    /// more for so long. TCP only.
    pub fn set_unacknowledged_timeout(&self, timeout: Duration) -> io::Result<()> {
        let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        Ok(setsockopt(&self.socket, TcpUserTimeout, &milliseconds)?)
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.receive(buffer, MsgFlags::empty())?)
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.send(bytes, MsgFlags::empty())?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    fn over_tcp() -> (Stream, Stream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near.into(), listener.accept().unwrap().0.into())
    }

    fn over_a_unix_socket() -> (Stream, Stream) {
        let (near, far) = UnixStream::pair().unwrap();
        (near.into(), far.into())
    }

    #[test]
    fn a_stream_carries_bytes_both_ways_over_tcp_and_over_a_unix_socket() {
        for (near, far) in [over_tcp(), over_a_unix_socket()] {
            let flags = MsgFlags::empty();
            assert_eq!(near.send_both(b"head", b"tail", flags), Ok(8));
            let (mut head, mut tail) = ([0; 3], [0; 9]);
            assert_eq!(far.receive_both(&mut head, &mut tail, flags), Ok(8));
            assert_eq!((&head, &tail[..5]), (b"hea", b"dtail".as_slice()));
            (&far).write_all(b"reply").unwrap();
            let mut reply = [0; 5];
            (&near).read_exact(&mut reply).unwrap();
            assert_eq!(&reply, b"reply");
            assert!(!near.is_mute(Duration::ZERO), "everything is acknowledged");
        }
    }

    #[test]
    fn a_stream_is_quiet_until_the_peer_sends_or_closes() {
        for (near, far) in [over_tcp(), over_a_unix_socket()] {
            assert!(near.is_quiet() && !near.is_ready(PollFlags::POLLIN));
            far.send(b"x", MsgFlags::empty()).unwrap();
            assert!(!near.is_quiet() && near.is_ready(PollFlags::POLLIN));
            assert_eq!(near.receive(&mut [0; 2], MsgFlags::empty()), Ok(1));
            assert!(near.is_quiet());
            far.shutdown(Shutdown::Both).unwrap();
            assert!(!near.is_quiet(), "it has ended");
        }
    }
}
