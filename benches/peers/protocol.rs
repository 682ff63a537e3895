//! What the load says to a server. All else of the load is the same for every back end.

use crate::output::Output;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes that a request or a reply has at most beyond its data.
pub(crate) const OVERHEAD: usize = 128;

/// A connection, a handshake or a single request that takes longer has failed.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// Where a server is, and how it was set up.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// mcomp.cfg, for dsmd.
    pub(crate) config: Option<PathBuf>,
    /// Offsets are multiples of it. Where the memory is made of keys, each key holds so many bytes.
    pub(crate) stride: u64,
}

/// A reply that has come whole.
pub(crate) struct Reply {
    /// Bytes of all of it.
    pub(crate) length: usize,
    /// Where in it the data is.
    pub(crate) data: Range<usize>,
    /// The request that it is for; `None`: the oldest one.
    pub(crate) ticket: Option<u32>,
}

/// One connection's side of a protocol.
pub(crate) trait Protocol: Sized + Send {
    /// Does what comes before the first request; the stream blocks, with a timeout.
    fn greet(stream: &TcpStream, target: &Target) -> Result<Self, String>;

    /// Asks for `length` bytes.
    fn read(&mut self, output: &mut Output<'_>, ticket: u32, offset: u64, length: usize);

    /// Asks to write this.
    fn write<'p>(&mut self, output: &mut Output<'p>, ticket: u32, offset: u64, data: &'p [u8]);

    /// The reply that `bytes` begin with; `None` while it is not all there.
    ///
    /// # Errors
    /// Any reply but a success.
    fn reply(&mut self, bytes: &[u8]) -> Result<Option<Reply>, String>;
}

/// A connection that has been greeted, with a timeout on everything.
pub(crate) fn connect<P: Protocol>(target: &Target) -> Result<(TcpStream, P), String> {
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

/// The first line of `bytes`, without its end, and where what follows begins; `None` while it is
/// not there.
///
/// # Errors
/// When it is longer than a line may be.
#[inline]
pub(crate) fn line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, String> {
    let head = &bytes[..bytes.len().min(OVERHEAD)];
    match head.iter().position(|byte| *byte == b'\n') {
        Some(end) if end > 0 && head[end - 1] == b'\r' => Ok(Some((&head[..end - 1], end + 1))),
        None if bytes.len() < OVERHEAD => Ok(None),
        _ => Err(unexpected(bytes)),
    }
}

/// A number in decimal digits.
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

/// The reply that consists of a line, `data` bytes, and the end of a line; `None` while it is not
/// all there.
#[inline]
pub(crate) fn counted(bytes: &[u8], start: usize, data: usize) -> Option<Reply> {
    let length = start + data + 2;
    (bytes.len() >= length).then_some(Reply {
        length,
        data: start..start + data,
        ticket: None,
    })
}

/// What is said of a reply that is no success.
pub(crate) fn unexpected(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(OVERHEAD)]);
    format!("the server answers {:?}", text.trim_end())
}
