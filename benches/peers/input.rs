//! What a connection has received and nobody has looked at.

use nix::sys::socket::{MsgFlags, recv};
use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// Bytes that a buffer grows to because more came than it had room for, though each frame would
/// fit.
const WIDEST: usize = 256 << 10;

/// A buffer that is read from the front while it is filled at the end.
pub(crate) struct Input {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes that it never has more than.
    most: usize,
}

impl Input {
    /// With room for so many bytes of frames, and growing as far as for `most` when they need it.
    pub(crate) fn new(capacity: usize, most: usize) -> Self {
        // Twice: what is left over moves to the front only when half of the buffer is behind it.
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
            "{} bytes consumed that were not there",
            self.start - self.end
        );
    }

    /// Takes what has come; returns how many bytes. With `MSG_DONTWAIT` that may be none; without,
    /// it waits for the first.
    ///
    /// # Errors
    /// When the other side has closed the connection, too.
    pub(crate) fn receive(&mut self, stream: &TcpStream, flags: MsgFlags) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start >= self.bytes.len() / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.bytes.len() {
            if self.end >= self.most {
                return Err(io::Error::other("a frame is longer than it may be"));
            }
            self.bytes.resize(self.most.min(2 * self.end), 0);
        }
        match recv(stream.as_raw_fd(), &mut self.bytes[self.end..], flags) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => {
                self.end += length;
                if self.end == self.bytes.len() {
                    // There may be more, which then comes with one receive.
                    self.bytes
                        .resize(self.end.max(self.most.min(WIDEST).min(2 * self.end)), 0);
                }
                Ok(length)
            }
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}
