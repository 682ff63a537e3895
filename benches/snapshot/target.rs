//! The target of the load: a dsm memory, used through dsm-client, or a Redis server, used through
//! its protocol. Both look like one range of bytes.

use dsm_client::Client;
use dsm_client::LocalAccess;
use dsm_core::layout::Layout;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

/// Bytes of one Redis string, and the maximum that one request writes.
pub(crate) const UNIT: u64 = 1 << 20;

/// The timeout of a request.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The memory that the load writes to.
pub(crate) enum BenchTarget {
    /// The memory with this layout.
    Dsm(Layout),
    /// The strings v0, v1 and so on of a Redis server, of one [`UNIT`] each.
    Redis {
        /// The address of the server.
        address: SocketAddr,
        /// Bytes of all strings.
        size: u64,
    },
}

impl BenchTarget {
    /// The number of parts, each of which `fill` writes on a separate connection: the servers of
    /// dsm, or one for Redis.
    pub(crate) fn parts(&self) -> usize {
        match self {
            Self::Dsm(layout) => layout.server_count(),
            Self::Redis { .. } => 1,
        }
    }

    /// The bytes that writer `number` writes to.
    pub(crate) fn range(&self, number: usize) -> Range<u64> {
        match self {
            Self::Dsm(layout) => {
                let start = (number % layout.server_count()) as u64 * layout.share_size();
                start..start + layout.share_size()
            }
            Self::Redis { size, .. } => 0..*size,
        }
    }

    /// Opens a new connection.
    pub(crate) fn connect(&self) -> Result<TargetConnection, String> {
        match self {
            // TCP alone, as with Redis.
            Self::Dsm(layout) => {
                let client = Client::with_layout(layout.clone()).with_local(LocalAccess::Never);
                Ok(TargetConnection::Dsm(client.with_timeout(TIMEOUT)))
            }
            Self::Redis { address, .. } => {
                let stream =
                    connect(*address).map_err(|error| format!("Redis at {address}: {error}"))?;
                Ok(TargetConnection::Redis {
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
pub(crate) enum TargetConnection {
    /// A client of dsm-client.
    Dsm(Client),
    /// A socket, and buffers that every request reuses.
    Redis {
        /// The socket.
        stream: BufReader<TcpStream>,
        /// The current request.
        request: Vec<u8>,
        /// The reply to it.
        reply: String,
    },
}

impl TargetConnection {
    /// Writes `data` and waits for the reply. The range must not cross a multiple of [`UNIT`].
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
                    Err(format!("Redis has replied {:?}", reply.trim_end()))
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
