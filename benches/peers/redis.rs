//! Redis: SETRANGE and GETRANGE on one key, whose value is the whole memory.

use crate::protocol::{PeerReply, PeerTarget, Protocol, counted, decimal, line, unexpected};
use crate::send_buffer::SendBuffer;
use std::net::TcpStream;

/// The client side of Redis's protocol. It has no state.
pub(crate) struct Redis;

/// Appends a number as a bulk string, after the end of the previous one.
#[inline]
fn put_number(output: &mut SendBuffer<'_>, number: u64) {
    output.put(b"\r\n$");
    output.put_decimal(u64::from(number.checked_ilog10().unwrap_or(0)) + 1);
    output.put(b"\r\n");
    output.put_decimal(number);
}

impl Protocol for Redis {
    fn greet(_: &TcpStream, _: &PeerTarget) -> Result<Self, String> {
        Ok(Self)
    }

    #[inline]
    fn read(&mut self, output: &mut SendBuffer<'_>, _: u32, offset: u64, length: usize) {
        output.put(b"*4\r\n$8\r\nGETRANGE\r\n$1\r\nm");
        put_number(output, offset);
        // The end of GETRANGE is inclusive.
        put_number(output, offset + length as u64 - 1);
        output.put(b"\r\n");
    }

    #[inline]
    fn write<'p>(&mut self, output: &mut SendBuffer<'p>, _: u32, offset: u64, data: &'p [u8]) {
        output.put(b"*4\r\n$8\r\nSETRANGE\r\n$1\r\nm");
        put_number(output, offset);
        output.put(b"\r\n$");
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
            [b':', ..] => Ok(Some(PeerReply {
                length: start,
                data: start..start,
                ticket: None,
            })),
            [b'$', digits @ ..] => {
                let data = decimal(digits).ok_or_else(|| unexpected(bytes))?;
                Ok(counted(bytes, start, data))
            }
            _ => Err(unexpected(bytes)),
        }
    }
}
