//! Opens connections.

use super::resolve::resolve;
use super::stream::Stream;
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Connects to `host:port` within `timeout`, which includes the look-up of a name. If the name has
/// several addresses, each attempt gets an equal part of the time that is left. The stream blocks.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`]; [`io::ErrorKind::NotFound`] for a name without an address; else why
/// the name was not resolved, or the last attempt failed.
pub fn connect(address: &str, timeout: Duration) -> io::Result<Stream> {
    let deadline = Instant::now() + timeout;
    let candidates = resolve(address).wait(deadline)?;
    let mut outcome = Err(io::Error::new(
        io::ErrorKind::NotFound,
        "the name resolves to no address",
    ));
    for (number, candidate) in candidates.iter().enumerate() {
        let attempts = u32::try_from(candidates.len() - number).unwrap_or(u32::MAX);
        let left = deadline.saturating_duration_since(Instant::now()) / attempts;
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        outcome = TcpStream::connect_timeout(candidate, left)
            .map(Stream::from)
            .and_then(|stream| refuse_itself(&stream).map(|()| stream));
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Starts to connect. The stream is non-blocking; when it becomes writable, [`finish_connect`] tells
/// the result.
///
/// # Errors
/// Those of `socket(2)` and `connect(2)`.
pub fn begin_connect(address: SocketAddr) -> io::Result<Stream> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(family, SockType::Stream, flags, None)?;
    match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = Stream::from(TcpStream::from(socket));
    stream.set_no_delay()?;
    Ok(stream)
}

/// Checks that the connection that was begun is established.
///
/// # Errors
/// Why it is not.
pub fn finish_connect(stream: &Stream) -> io::Result<()> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    refuse_itself(stream)
}

/// On loopback, the kernel sometimes gives a client that tries a port without a listener that very
/// port, and connects the client to itself. The client would also keep the server from binding the
/// port.
fn refuse_itself(stream: &Stream) -> io::Result<()> {
    if stream.own_address()? == stream.peer_address()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(())
}
