//! Sockets that listen: made here, or given by the service manager.

use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, sockopt,
};
use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Connections that may wait to be accepted; the kernel takes less if net.core.somaxconn says so.
const BACKLOG: i32 = 4096;

/// Sockets that have an address; no client can connect to them yet.
pub struct Bound {
    sockets: Vec<OwnedFd>,
    /// Where they are.
    pub addresses: Vec<SocketAddr>,
    /// Addresses that the name stands for and that are not this machine's.
    pub missing: Vec<SocketAddr>,
}

/// Takes every address that `address` (`host:port`) stands for and that is this machine's: a name
/// has one for each version of IP, and a client may come by either.
pub fn bind(address: &str) -> io::Result<Bound> {
    let mut bound = Bound {
        sockets: Vec::new(),
        addresses: Vec::new(),
        missing: Vec::new(),
    };
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in address.to_socket_addrs()? {
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

/// Whether an address cannot be had because it is another machine's, or of a version of IP that
/// this machine does not have.
fn is_elsewhere(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn bind_to(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    // A connection that is gone again between poll and accept must not make accept wait.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(family, SockType::Stream, flags, None)?;
    // Connections of the dsmd before may still be winding down.
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

/// Sockets that listen. Accepting never waits.
pub struct Listeners {
    sockets: Vec<TcpListener>,
    /// Where they are; never empty.
    pub addresses: Vec<SocketAddr>,
    /// The one to be asked first, next time: none can keep the others from being asked.
    next: Cell<usize>,
}

/// Lets clients connect.
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

/// The sockets that systemd gave this process, see `sd_listen_fds(3)`; `None` without any. To be
/// asked once.
pub fn inherited() -> io::Result<Option<Listeners>> {
    let taken = |descriptor| {
        // SAFETY: the service manager opened the descriptor for this process, as LISTEN_PID says,
        // and nothing else here has it.
        let listener = TcpListener::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let sockets = sd_notify::listen_fds()?
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

    /// Where they are, for people.
    pub fn shown(&self) -> String {
        self.addresses
            .iter()
            .map(SocketAddr::to_string)
            .collect::<Vec<_>>()
            .join(" and ")
    }

    /// What poll(2) is to be asked: whether a client waits.
    pub fn awaited(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.sockets
            .iter()
            .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
    }

    /// A connection that waits on one of them; [`io::ErrorKind::WouldBlock`] when none does.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
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
        outcome
    }
}

/// What to do about an address of mcomp.cfg that cannot be listened on; goes after the error.
#[must_use]
pub fn way_out(error: &io::Error) -> &'static str {
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
