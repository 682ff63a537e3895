//! Where the load goes: a dsm memory through its client, or a Redis server through its own
//! protocol. Both are one range of bytes here.

use dsm_client::Client;
use dsm_client::LocalAccess;
use dsm_core::layout::Layout;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

/// Bytes of one string of Redis, and the most that one request writes.
pub(crate) const UNIT: u64 = 1 << 20;

/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What is written to.
pub(crate) enum Target {
    /// The memory with this layout.
    Dsm(Layout),
    /// The strings v0, v1 and so on of a Redis server, of one unit each, `size` bytes in all.
    Redis {
        /// Where it listens.
        address: SocketAddr,
        /// Bytes of all strings.
        size: u64,
    },
}

impl Target {
    /// How many parts it has, each with a connection of its own to fill it: servers of dsm.
    pub(crate) fn parts(&self) -> usize {
        match self {
            Self::Dsm(layout) => layout.n(),
            Self::Redis { .. } => 1,
        }
    }

    /// The bytes that writer `number` writes to.
    pub(crate) fn range(&self, number: usize) -> Range<u64> {
        match self {
            Self::Dsm(layout) => {
                let start = (number % layout.n()) as u64 * layout.k();
                start..start + layout.k()
            }
            Self::Redis { size, .. } => 0..*size,
        }
    }

    /// A connection of one's own.
    pub(crate) fn connect(&self) -> Result<Connection, String> {
        match self {
            // Over TCP, as with Redis.
            Self::Dsm(layout) => {
                let client = Client::with_layout(layout.clone()).with_local(LocalAccess::Never);
                Ok(Connection::Dsm(client.with_timeout(TIMEOUT)))
            }
            Self::Redis { address, .. } => {
                let stream =
                    connect(*address).map_err(|error| format!("Redis at {address}: {error}"))?;
                Ok(Connection::Redis {
                    stream: BufReader::new(stream),
                    request: Vec::new(),
                    reply: String::new(),
                })
            }
        }
    }
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// A connection to the target.
pub(crate) enum Connection {
    /// Through the library.
    Dsm(Client),
    /// A socket, and buffers that are used again.
    Redis {
        /// The socket.
        stream: BufReader<TcpStream>,
        /// The request under way.
        request: Vec<u8>,
        /// Its reply.
        reply: String,
    },
}

impl Connection {
    /// Writes, and waits until it is done. The bytes must not cross a multiple of the unit.
    pub(crate) fn write(&mut self, address: u64, data: &[u8]) -> Result<(), String> {
        match self {
            Self::Dsm(client) => client
                .write(address, data)
                .map_err(|error| error.to_string()),
            Self::Redis {
                stream,
                request,
                reply,
            } => {
                set_range(stream, request, reply, address, data)
                    .map_err(|error| format!("Redis: {error}"))?;
                if reply.starts_with(':') {
                    Ok(())
                } else {
                    Err(format!("Redis answers {}", reply.trim_end()))
                }
            }
        }
    }
}

fn set_range(
    stream: &mut BufReader<TcpStream>,
    request: &mut Vec<u8>,
    reply: &mut String,
    address: u64,
    data: &[u8],
) -> std::io::Result<()> {
    let (key, offset) = (format!("v{}", address / UNIT), (address % UNIT).to_string());
    request.clear();
    request.extend_from_slice(b"*4\r\n");
    for word in [b"SETRANGE", key.as_bytes(), offset.as_bytes(), data] {
        write!(request, "${}\r\n", word.len())?;
        request.extend_from_slice(word);
        request.extend_from_slice(b"\r\n");
    }
    stream.get_mut().write_all(request)?;
    reply.clear();
    match stream.read_line(reply)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}
