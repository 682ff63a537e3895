//! Listening sockets: created here, or passed by the service manager.

use super::resolve::{LOOK_UP_TIMEOUT, resolve};
use super::stream::Stream;
use crate::sys::socket::inherited as inherited_descriptors;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, sockopt,
};
use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

/// Connections that may wait to be accepted; the kernel uses less if net.core.somaxconn is smaller.
const BACKLOG: i32 = 4096;

/// Sockets that are bound to an address and do not listen yet: no client can connect to them.
pub struct Bound {
    sockets: Vec<OwnedFd>,
    /// Their addresses.
    pub addresses: Vec<SocketAddr>,
    /// Addresses of the name that this machine does not have.
    pub missing: Vec<SocketAddr>,
}

/// Binds a socket to every address of `address` (`host:port`) that this machine has: a name may
/// have one for each version of IP, and a client may use either. Blocks while the system looks a
/// name up.
///
/// # Errors
/// When the name cannot be resolved, or has no address that this machine has; else those of the
/// system calls.
pub fn bind(address: &str) -> io::Result<Bound> {
    let mut bound = Bound {
        sockets: Vec::new(),
        addresses: Vec::new(),
        missing: Vec::new(),
    };
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in resolve(address).wait(Instant::now() + LOOK_UP_TIMEOUT)? {
        if bound.addresses.contains(&candidate) {
            continue;
        }
        match bind_to(candidate) {
            Ok(socket) => {
                bound.sockets.push(socket);
                bound.addresses.push(candidate);
            }
            Err(error) if is_elsewhere(&error) => {
                bound.missing.push(candidate);
                failed = error;
            }
            Err(error) => return Err(error),
        }
    }
    if bound.sockets.is_empty() {
        Err(failed)
    } else {
        Ok(bound)
    }
}

/// Whether an address cannot be bound because another machine has it, or this machine does not
/// support its version of IP.
fn is_elsewhere(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT)
}

fn bind_to(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    // If a client closes its connection between poll and accept, accept must not block.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, SockType::Stream, flags, None)?;
    // Connections of the previous dsmd may still be closing.
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

/// Listening sockets. Accepting never blocks.
pub struct Listeners {
    sockets: Vec<TcpListener>,
    /// Their addresses; never empty.
    pub addresses: Vec<SocketAddr>,
    /// The index of the socket that the next call tries first: so no socket can starve the others.
    next: Cell<usize>,
}

/// Listens on bound sockets: from now on clients can connect.
///
/// # Errors
/// Those of `listen(2)`.
pub fn listen(bound: Bound) -> io::Result<Listeners> {
    let listening = |socket: OwnedFd| {
        socket::listen(&socket, Backlog::new(BACKLOG)?)?;
        Ok(TcpListener::from(socket))
    };
    Listeners::new(
        bound
            .sockets
            .into_iter()
            .map(listening)
            .collect::<io::Result<_>>()?,
    )
}

/// The sockets that systemd passed to this process, see `sd_listen_fds(3)`; `None` if there are
/// none. To be called once.
///
/// # Errors
/// When the environment or a descriptor is not what `sd_listen_fds(3)` says.
pub fn inherited() -> io::Result<Option<Listeners>> {
    let taken = |socket: OwnedFd| {
        let listener = TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let sockets = inherited_descriptors()?
        .into_iter()
        .map(taken)
        .collect::<io::Result<Vec<_>>>()?;
    if sockets.is_empty() {
        Ok(None)
    } else {
        Listeners::new(sockets).map(Some)
    }
}

impl Listeners {
    fn new(sockets: Vec<TcpListener>) -> io::Result<Self> {
        let addresses = sockets
            .iter()
            .map(TcpListener::local_addr)
            .collect::<io::Result<_>>()?;
        Ok(Self {
            sockets,
            addresses,
            next: Cell::new(0),
        })
    }

    /// Their addresses, for messages.
    #[must_use]
    pub fn shown(&self) -> String {
        self.addresses
            .iter()
            .map(SocketAddr::to_string)
            .collect::<Vec<_>>()
            .join(" and ")
    }

    /// The arguments for poll(2) to wait for a client.
    pub fn awaited(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.sockets
            .iter()
            .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
    }

    /// Accepts a waiting connection of one of the sockets; [`io::ErrorKind::WouldBlock`] when there
    /// is none. The stream blocks.
    ///
    /// # Errors
    /// Those of `accept(2)`.
    pub fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let first = self.next.get();
        self.next.set((first + 1) % self.sockets.len());
        let (before, from) = self.sockets.split_at(first);
        let mut outcome = Err(io::ErrorKind::WouldBlock.into());
        for socket in from.iter().chain(before) {
            outcome = socket.accept();
            if !outcome
                .as_ref()
                .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            {
                break;
            }
        }
        outcome.map(|(socket, peer)| (socket.into(), peer))
    }
}

/// What the user can do about an address of mcomp.cfg that cannot be listened on; follows the text
/// of the error.
#[must_use]
pub fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            ". Another program has the port: stop it, or change the port in mcomp.cfg on every machine"
        }
        io::ErrorKind::AddrNotAvailable => {
            ". This machine does not have the address: see --index, and ip address"
        }
        io::ErrorKind::PermissionDenied => {
            ". Ports below 1024 are for root: take another in mcomp.cfg on every machine"
        }
        _ => "",
    }
}
