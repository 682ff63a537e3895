//! The raw servers: what a server costs that only moves bytes. No locks, no checks but of bounds,
//! no promises.

use crate::input::Input;
use crate::raw::{HEADER, Header, READ, WRITE};
use dsm_benches::pattern::MAX_SIZE;
use dsm_core::sys::mapping::Mapping;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::MsgFlags;
use nix::unistd::ftruncate;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Replies that are gathered for one send, beyond which it is sent at once.
const BATCH: usize = 1 << 20;

/// Bytes of requests that a connection has room for at first.
const AT_FIRST: usize = 16 << 10;

/// Events that one look takes.
const EVENTS: usize = 64;

/// Accepts for ever; with 0 threads each connection has one of its own, otherwise that many share
/// them.
pub(crate) fn serve(address: SocketAddr, memory: u64, threads: usize) -> Result<(), String> {
    let memory = Arc::new(map(memory).map_err(|error| format!("memory: {error}"))?);
    let listener = TcpListener::bind(address).map_err(|error| format!("{address}: {error}"))?;
    let pool = (0..threads)
        .map(|_| Shared::start(&memory))
        .collect::<io::Result<Vec<_>>>();
    let pool = pool.map_err(|error| format!("epoll: {error}"))?;
    for (number, stream) in listener.incoming().enumerate() {
        let accept = |stream: TcpStream| -> io::Result<()> {
            stream.set_nodelay(true)?;
            let mut connection = Connection::new(stream);
            if let Some(shared) = pool.get(number % threads.max(1)) {
                return shared.add(connection);
            }
            let memory = Arc::clone(&memory);
            std::thread::spawn(
                move || while connection.turn(&memory, MsgFlags::empty()).is_ok() {},
            );
            Ok(())
        };
        stream
            .and_then(accept)
            .map_err(|error| format!("accept: {error}"))?;
    }
    Ok(())
}

/// Memory as dsmd has it: shared, in ordinary pages.
fn map(bytes: u64) -> io::Result<Mapping> {
    let file = memfd_create(c"raw", MFdFlags::MFD_CLOEXEC)?;
    ftruncate(&file, i64::try_from(bytes).map_err(io::Error::other)?)?;
    let length = usize::try_from(bytes).ok().and_then(NonZeroUsize::new);
    Ok(Mapping::new(
        file,
        length.ok_or(io::ErrorKind::InvalidInput)?,
    )?)
}

struct Connection {
    stream: TcpStream,
    input: Input,
    /// Replies; what lies beyond `used` is left from before.
    output: Vec<u8>,
    used: usize,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            input: Input::new(AT_FIRST, MAX_SIZE + HEADER),
            output: Vec::new(),
            used: 0,
        }
    }

    /// Answers all that has come with one send.
    fn turn(&mut self, memory: &Mapping, flags: MsgFlags) -> io::Result<()> {
        self.input.receive(&self.stream, flags)?;
        while let Some(length) = self.answer(memory)? {
            self.input.consume(length);
            if self.used >= BATCH {
                self.send()?;
            }
        }
        self.send()
    }

    /// Carries out the first request; returns its length, or `None` while it is not all there.
    fn answer(&mut self, memory: &Mapping) -> io::Result<Option<usize>> {
        let bytes = self.input.bytes();
        let Some(header) = Header::decode(bytes) else {
            return Ok(None);
        };
        let length = header.length as usize;
        let offset = usize::try_from(header.offset).unwrap_or(usize::MAX);
        if length > MAX_SIZE || offset > memory.length() || length > memory.length() - offset {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (taken, given) = match header.operation {
            READ => (HEADER, HEADER + length),
            WRITE => (HEADER + length, HEADER),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        if bytes.len() < taken {
            return Ok(None);
        }
        let start = self.used;
        self.used += given;
        if self.output.len() < self.used {
            self.output.resize(self.used, 0);
        }
        let reply = &mut self.output[start..self.used];
        reply[..HEADER].copy_from_slice(&header.encode());
        if header.operation == READ {
            memory.copy_out(offset, &mut reply[HEADER..]);
        } else {
            memory.copy_in(offset, &bytes[HEADER..taken]);
        }
        Ok(Some(taken))
    }

    fn send(&mut self) -> io::Result<()> {
        if self.used > 0 {
            self.stream.write_all(&self.output[..self.used])?;
            self.used = 0;
        }
        Ok(())
    }
}

/// A thread that serves several connections, and how to hand it one.
struct Shared {
    epoll: Arc<Epoll>,
    new: Arc<Mutex<Vec<Connection>>>,
}

impl Shared {
    fn start(memory: &Arc<Mapping>) -> io::Result<Self> {
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let shared = Self {
            epoll: Arc::clone(&epoll),
            new: Arc::default(),
        };
        let (memory, new) = (Arc::clone(memory), Arc::clone(&shared.new));
        std::thread::spawn(move || {
            if let Err(error) = share(&memory, &epoll, &new) {
                eprintln!("peers-load: epoll: {error}");
                std::process::exit(1);
            }
        });
        Ok(shared)
    }

    fn add(&self, connection: Connection) -> io::Result<()> {
        // Whoever is woken by the connection waits until it is there.
        let mut new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        self.epoll.add(
            &connection.stream,
            EpollEvent::new(EpollFlags::EPOLLIN, number(&connection) as u64),
        )?;
        new.push(connection);
        Ok(())
    }
}

/// The descriptor: nobody else has it while the connection is open.
fn number(connection: &Connection) -> usize {
    connection.stream.as_raw_fd().unsigned_abs() as usize
}

fn share(memory: &Mapping, epoll: &Epoll, new: &Mutex<Vec<Connection>>) -> io::Result<()> {
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut events = [EpollEvent::empty(); EVENTS];
    loop {
        let count = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..count] {
            let woken = usize::try_from(event.data()).map_err(io::Error::other)?;
            if connections.get(woken).is_none_or(Option::is_none) {
                for connection in new.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                    let place = number(&connection);
                    connections.resize_with(connections.len().max(place + 1), || None);
                    connections[place] = Some(connection);
                }
            }
            let Some(place) = connections.get_mut(woken) else {
                continue;
            };
            if let Some(connection) = place
                && connection.turn(memory, MsgFlags::MSG_DONTWAIT).is_err()
            {
                // The client has gone.
                *place = None;
            }
        }
    }
}
