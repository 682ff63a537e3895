//! The interface to a server's protocol, the only part of the load that differs between servers.

use crate::send_buffer::SendBuffer;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// The maximum number of bytes of a request or a reply without its data.
pub(crate) const OVERHEAD: usize = 128;

/// The timeout of a connection attempt, a handshake and a request.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// The address of a server, and its settings.
pub(crate) struct PeerTarget {
    pub(crate) address: SocketAddr,
    /// The path of mcomp.cfg, for dsmd.
    pub(crate) config: Option<PathBuf>,
    /// The distance of two slots in bytes. memcached has one key per slot.
    pub(crate) stride: u64,
}

/// The position and size of a complete reply.
pub(crate) struct PeerReply {
    /// The length of the reply in bytes.
    pub(crate) length: usize,
    /// The range of the data in the reply.
    pub(crate) data: Range<usize>,
    /// The ticket of the request; `None`: the oldest request.
    pub(crate) ticket: Option<u32>,
}

/// The client side of a protocol, on one connection.
pub(crate) trait Protocol: Sized + Send {
    /// Completes the handshake. `stream` is blocking and has timeouts.
    fn greet(stream: &TcpStream, target: &PeerTarget) -> Result<Self, String>;

    /// Appends a request to read `length` bytes.
    fn read(&mut self, output: &mut SendBuffer<'_>, ticket: u32, offset: u64, length: usize);

    /// Appends a request to write `data`.
    fn write<'p>(&mut self, output: &mut SendBuffer<'p>, ticket: u32, offset: u64, data: &'p [u8]);

    /// The reply at the start of `bytes`; `None` while it is incomplete.
    ///
    /// # Errors
    /// A reply that is not a success.
    fn reply(&mut self, bytes: &[u8]) -> Result<Option<PeerReply>, String>;
}

/// Opens a connection with timeouts, and completes the handshake.
pub(crate) fn connect<P: Protocol>(target: &PeerTarget) -> Result<(TcpStream, P), String> {
    let open = || {
        let stream = TcpStream::connect_timeout(&target.address, TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(stream)
    };
    let stream = open()
        .map_err(|error: std::io::Error| format!("connecting to {}: {error}", target.address))?;
    let protocol = P::greet(&stream, target)?;
    Ok((stream, protocol))
}

/// The first line of `bytes` without its CRLF, and the position after it; `None` while the line is
/// incomplete.
///
/// # Errors
/// The line is longer than [`OVERHEAD`].
#[inline]
pub(crate) fn line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, String> {
    let head = &bytes[..bytes.len().min(OVERHEAD)];
    match head.iter().position(|byte| *byte == b'\n') {
        Some(end) if end > 0 && head[end - 1] == b'\r' => Ok(Some((&head[..end - 1], end + 1))),
        None if bytes.len() < OVERHEAD => Ok(None),
        _ => Err(unexpected(bytes)),
    }
}

/// Parses a decimal number.
#[inline]
pub(crate) fn decimal(digits: &[u8]) -> Option<usize> {
    let digit = |number: usize, byte: &u8| {
        byte.is_ascii_digit().then(|| {
            number
                .checked_mul(10)?
                .checked_add(usize::from(byte - b'0'))
        })?
    };
    digits.iter().try_fold(0, digit)
}

/// A reply of a line, `data` bytes and CRLF; `None` while it is incomplete.
#[inline]
pub(crate) fn counted(bytes: &[u8], start: usize, data: usize) -> Option<PeerReply> {
    let length = start + data + 2;
    (bytes.len() >= length).then_some(PeerReply {
        length,
        data: start..start + data,
        ticket: None,
    })
}

/// The error message for an unexpected reply.
pub(crate) fn unexpected(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(OVERHEAD)]);
    format!("the server has replied {:?}", text.trim_end())
}
