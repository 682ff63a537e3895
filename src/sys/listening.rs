//! Sockets that listen: made here, or given by the service manager.

use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, sockopt};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Connections that may wait to be accepted; the kernel takes less if net.core.somaxconn says so.
const BACKLOG: i32 = 4096;

/// Takes the first of the addresses that `address` (`host:port`) stands for and that this machine has free. Nobody can
/// connect yet.
pub(crate) fn bind(address: &str) -> io::Result<OwnedFd> {
    let mut outcome = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for candidate in address.to_socket_addrs()? {
        outcome = bind_to(candidate);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn bind_to(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    // A connection that is gone again between poll and accept must not make accept wait.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, SockType::Stream, flags, None)?;
    // Connections of the dsmd before may still be winding down.
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

/// Lets clients connect.
pub(crate) fn listen(bound: OwnedFd) -> io::Result<TcpListener> {
    socket::listen(&bound, Backlog::new(BACKLOG)?)?;
    Ok(TcpListener::from(bound))
}

/// The socket that systemd gave this process, see `sd_listen_fds(3)`; the first, if there are several. To be asked once.
pub(crate) fn inherited() -> io::Result<Option<TcpListener>> {
    let Some(descriptor) = sd_notify::listen_fds()?.next() else { return Ok(None) };
    // SAFETY: the service manager opened the descriptor for this process, as LISTEN_PID says, and nothing else here has
    // it.
    let listener = TcpListener::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
    listener.set_nonblocking(true)?;
    Ok(Some(listener))
}

/// What to do about an address of mcomp.cfg that cannot be listened on; goes after the error.
pub(crate) fn way_out(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            ". Another program has the port: stop it, or change the port in mcomp.cfg on every machine"
        }
        io::ErrorKind::AddrNotAvailable => ". This machine does not have the address: see --index, and ip address",
        io::ErrorKind::PermissionDenied => {
            ". Ports below 1024 are for root: take another in mcomp.cfg on every machine"
        }
        _ => "",
    }
}
