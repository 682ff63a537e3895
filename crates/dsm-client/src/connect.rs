//! TCP connections that are opened without blocking.

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;

/// The socket addresses of `host:port`. Blocks while the system looks a name up.
pub(super) fn resolve(address: &str) -> Result<Vec<SocketAddr>, String> {
    let found: Vec<_> = address
        .to_socket_addrs()
        .map_err(|error| format!("its name is not resolved: {error}"))?
        .collect();
    if found.is_empty() {
        Err("its name has no address".into())
    } else {
        Ok(found)
    }
}

/// Starts to connect. The stream is non-blocking; when it becomes writable, [`finish`] tells the
/// result.
pub(super) fn begin(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(family, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS | Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Checks that the connection that was begun is established.
pub(super) fn finish(stream: &TcpStream) -> io::Result<()> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    // On loopback, the kernel sometimes gives a client that tries a port without a listener that
    // very port, and connects the client to itself. The client would also keep the server from
    // binding the port.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(())
}
