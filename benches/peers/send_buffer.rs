//! The bytes that a connection will send: headers and short payloads are copied into a buffer, long
//! payloads are borrowed.

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send, sendmsg};
use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// A payload of up to this many bytes is copied, which is cheaper than one more `iovec`.
const COPIED: usize = 1024;

/// Copied bytes and borrowed payloads, in the order of sending.
#[derive(Default)]
pub(crate) struct SendBuffer<'p> {
    bytes: Vec<u8>,
    /// The borrowed payloads, each with the number of `bytes` before it.
    outside: Vec<(usize, &'p [u8])>,
    /// The number of all bytes.
    total: usize,
    /// The number of bytes that the kernel has accepted.
    sent: usize,
}

impl<'p> SendBuffer<'p> {
    #[inline]
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.total += bytes.len();
    }

    #[inline]
    pub(crate) fn put_payload(&mut self, data: &'p [u8]) {
        if data.len() <= COPIED {
            self.put(data);
        } else {
            self.outside.push((self.bytes.len(), data));
            self.total += data.len();
        }
    }

    /// Appends a number in decimal digits.
    #[inline]
    pub(crate) fn put_decimal(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b"0123456789"[(number % 10) as usize];
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.put(&digits[first..]);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Sends as many bytes as the kernel accepts without blocking.
    pub(crate) fn flush(&mut self, stream: &TcpStream) -> io::Result<()> {
        while self.sent < self.total {
            match self.send_some(stream) {
                Ok(sent) => self.sent += sent,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.bytes.clear();
        self.outside.clear();
        (self.total, self.sent) = (0, 0);
        Ok(())
    }

    fn send_some(&self, stream: &TcpStream) -> nix::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        if self.outside.is_empty() {
            return send(stream.as_raw_fd(), &self.bytes[self.sent..], flags);
        }
        let mut slices = Vec::with_capacity(2 * self.outside.len() + 1);
        let mut copied = 0;
        for (before, payload) in &self.outside {
            slices.push(IoSlice::new(&self.bytes[copied..*before]));
            slices.push(IoSlice::new(payload));
            copied = *before;
        }
        slices.push(IoSlice::new(&self.bytes[copied..]));
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, self.sent);
        sendmsg::<()>(stream.as_raw_fd(), rest, &[], flags, None)
    }
}
