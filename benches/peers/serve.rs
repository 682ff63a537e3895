//! The raw servers, as the baseline: they only copy bytes and check bounds. They have no locks and
//! give no guarantees.

use crate::raw::{BenchHeader, HEADER, READ, WRITE};
use crate::receive_buffer::ReceiveBuffer;
use dsm_benches::pattern::MAX_SIZE;
use dsm_core::sys::mapping::Mapping;
use dsm_core::sys::region::Region;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::MsgFlags;
use nix::unistd::ftruncate;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

/// The bytes of replies that are gathered before they are sent.
const BATCH: usize = 1 << 20;

/// The initial size of a connection's receive buffer in bytes of requests.
const INITIAL_SIZE: usize = 16 << 10;

/// The maximum number of events of one `epoll_wait`.
const EVENTS: usize = 64;

/// Accepts connections for ever. With `threads` 0, each connection has a thread; otherwise this
/// many threads share the connections.
pub(crate) fn serve(address: SocketAddr, memory: u64, threads: usize) -> Result<(), String> {
    let memory = Arc::new(map(memory).map_err(|error| format!("memory: {error}"))?);
    let listener = TcpListener::bind(address).map_err(|error| format!("{address}: {error}"))?;
    let pool = (0..threads)
        .map(|_| PollThread::start(&memory))
        .collect::<io::Result<Vec<_>>>();
    let pool = pool.map_err(|error| format!("epoll: {error}"))?;
    for (number, stream) in listener.incoming().enumerate() {
        let accept = |stream: TcpStream| -> io::Result<()> {
            stream.set_nodelay(true)?;
            let mut connection = RawConnection::new(stream);
            if let Some(shared) = pool.get(number % threads.max(1)) {
                return shared.add(connection);
            }
            let memory = Arc::clone(&memory);
            std::thread::spawn(
                move || while connection.exchange(&memory, MsgFlags::empty()).is_ok() {},
            );
            Ok(())
        };
        stream
            .and_then(accept)
            .map_err(|error| format!("accept: {error}"))?;
    }
    Ok(())
}

/// Maps memory of the same kind as dsmd's: shared, in ordinary pages.
fn map(bytes: u64) -> io::Result<Region> {
    let file = memfd_create(c"raw", MFdFlags::MFD_CLOEXEC)?;
    ftruncate(&file, i64::try_from(bytes).map_err(io::Error::other)?)?;
    let length = usize::try_from(bytes)
        .ok()
        .and_then(NonZeroUsize::new)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let mapping = Arc::new(Mapping::new(file, length)?);
    Ok(mapping.region(0..length.get()))
}

struct RawConnection {
    stream: TcpStream,
    input: ReceiveBuffer,
    /// The replies. The bytes beyond `used` are not part of them.
    output: Vec<u8>,
    used: usize,
}

impl RawConnection {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            input: ReceiveBuffer::new(INITIAL_SIZE, MAX_SIZE + HEADER),
            output: Vec::new(),
            used: 0,
        }
    }

    /// Executes all received requests, and sends their replies together.
    fn exchange(&mut self, memory: &Region, flags: MsgFlags) -> io::Result<()> {
        self.input.receive(&self.stream, flags)?;
        while let Some(length) = self.execute(memory)? {
            self.input.consume(length);
            if self.used >= BATCH {
                self.send()?;
            }
        }
        self.send()
    }

    /// Executes the first request and returns its length; `None` while it is incomplete.
    fn execute(&mut self, memory: &Region) -> io::Result<Option<usize>> {
        let bytes = self.input.bytes();
        let Some(header) = BenchHeader::decode(bytes) else {
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

/// A thread that serves several connections, which [`Self::add`] hands to it.
struct PollThread {
    epoll: Arc<Epoll>,
    new: Arc<Mutex<Vec<RawConnection>>>,
}

impl PollThread {
    fn start(memory: &Arc<Region>) -> io::Result<Self> {
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

    fn add(&self, connection: RawConnection) -> io::Result<()> {
        // The thread may wake before the push: this lock makes it wait for that.
        let mut new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
        self.epoll.add(
            &connection.stream,
            EpollEvent::new(EpollFlags::EPOLLIN, number(&connection) as u64),
        )?;
        new.push(connection);
        Ok(())
    }
}

/// The file descriptor, which is unique while the connection is open.
fn number(connection: &RawConnection) -> usize {
    connection.stream.as_raw_fd().unsigned_abs() as usize
}

fn share(memory: &Region, epoll: &Epoll, new: &Mutex<Vec<RawConnection>>) -> io::Result<()> {
    let mut connections: Vec<Option<RawConnection>> = Vec::new();
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
                && connection.exchange(memory, MsgFlags::MSG_DONTWAIT).is_err()
            {
                // The client has disconnected.
                *place = None;
            }
        }
    }
}
