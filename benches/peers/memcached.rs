//! memcached: the meta protocol, with one key per slot of the memory.

use crate::protocol::{PeerReply, PeerTarget, Protocol, counted, decimal, line, unexpected};
use crate::send_buffer::SendBuffer;
use std::net::TcpStream;

/// The client side of memcached's meta protocol.
pub(crate) struct Memcached {
    /// The distance of two slots in bytes.
    stride: u64,
}

impl Protocol for Memcached {
    fn greet(_: &TcpStream, target: &PeerTarget) -> Result<Self, String> {
        Ok(Self {
            stride: target.stride,
        })
    }

    #[inline]
    fn read(&mut self, output: &mut SendBuffer<'_>, _: u32, offset: u64, _: usize) {
        output.put(b"mg ");
        output.put_decimal(offset / self.stride);
        output.put(b" v\r\n");
    }

    #[inline]
    fn write<'p>(&mut self, output: &mut SendBuffer<'p>, _: u32, offset: u64, data: &'p [u8]) {
        output.put(b"ms ");
        output.put_decimal(offset / self.stride);
        output.put(b" ");
        output.put_decimal(data.len() as u64);
        output.put(b"\r\n");
        output.put_payload(data);
        output.put(b"\r\n");
    }

    #[inline]
    fn reply(&mut self, bytes: &[u8]) -> Result<Option<PeerReply>, String> {
        let Some((head, start)) = line(bytes)? else {
            return Ok(None);
        };
        match head {
            [b'H', b'D', ..] => Ok(Some(PeerReply {
                length: start,
                data: start..start,
                ticket: None,
            })),
            [b'V', b'A', b' ', digits @ ..] => {
                let data = decimal(digits).ok_or_else(|| unexpected(bytes))?;
                Ok(counted(bytes, start, data))
            }
            [b'E', b'N'] => Err("memcached has evicted a key: start it with more memory".into()),
            _ => Err(unexpected(bytes)),
        }
    }
}
