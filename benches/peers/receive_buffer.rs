//! The bytes that a connection has received and its user has not consumed.

use nix::sys::socket::{MsgFlags, recv};
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// The size in bytes up to which a full buffer grows, although each frame would fit into it.
const MAX_GROWTH: usize = 256 << 10;

/// A buffer that is read from the front while it is filled at the end.
pub(crate) struct ReceiveBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// The maximum size of the buffer in bytes.
    most: usize,
}

impl ReceiveBuffer {
    /// A buffer for frames of `capacity` bytes, which grows for frames of up to `most` bytes.
    pub(crate) fn new(capacity: usize, most: usize) -> Self {
        // Twice the size: the rest moves to the front only when half of the buffer is consumed.
        Self {
            bytes: vec![0; 2 * capacity],
            start: 0,
            end: 0,
            most: 2 * most,
        }
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    #[inline]
    pub(crate) fn consume(&mut self, length: usize) {
        self.start += length;
        assert!(
            self.start <= self.end,
            "{} bytes too many consumed",
            self.start - self.end
        );
    }

    /// Receives the available bytes and returns their number. With `MSG_DONTWAIT` it may be 0.
    /// Without, this waits for the first byte.
    ///
    /// # Errors
    /// Also when the peer has closed the connection.
    pub(crate) fn receive(&mut self, stream: &TcpStream, flags: MsgFlags) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start >= self.bytes.len() / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.bytes.len() {
            if self.end >= self.most {
                return Err(io::Error::other("a frame is longer than the maximum"));
            }
            self.bytes.resize(self.most.min(2 * self.end), 0);
        }
        match recv(stream.as_raw_fd(), &mut self.bytes[self.end..], flags) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                self.end += length;
                if self.end == self.bytes.len() {
                    // More bytes may wait in the kernel: a larger buffer takes them at once.
                    self.bytes
                        .resize(self.end.max(self.most.min(MAX_GROWTH).min(2 * self.end)), 0);
                }
                Ok(length)
            }
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}
