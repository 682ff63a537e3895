//! What a connection is to send: headers and short payloads in a buffer, long payloads where they
//! lie.

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send, sendmsg};
use std::io::{self, IoSlice};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// A payload up to this many bytes is copied: cheaper than one more place for the kernel to gather
/// from.
const COPIED: usize = 1024;

/// See the module.
#[derive(Default)]
pub(crate) struct Output<'p> {
    bytes: Vec<u8>,
    /// Payloads, and how many of `bytes` go before each.
    outside: Vec<(usize, &'p [u8])>,
    /// Bytes of all that, and those that the kernel has.
    total: usize,
    sent: usize,
}

impl<'p> Output<'p> {
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

    /// A number in decimal digits.
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

    /// Sends as much as the kernel takes without waiting.
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
