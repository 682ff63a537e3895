//! Redis: SETRANGE and GETRANGE on one key that holds all of the memory.

use crate::output::Output;
use crate::protocol::{Protocol, Reply, Target, counted, decimal, line, unexpected};
use std::net::TcpStream;

/// It has no state.
pub(crate) struct Redis;

/// A word of a command.
#[inline]
fn put_number(output: &mut Output<'_>, number: u64) {
    output.put(b"\r\n$");
    output.put_decimal(u64::from(number.checked_ilog10().unwrap_or(0)) + 1);
    output.put(b"\r\n");
    output.put_decimal(number);
}

impl Protocol for Redis {
    fn greet(_: &TcpStream, _: &Target) -> Result<Self, String> {
        Ok(Self)
    }

    #[inline]
    fn read(&mut self, output: &mut Output<'_>, _: u32, offset: u64, length: usize) {
        output.put(b"*4\r\n$8\r\nGETRANGE\r\n$1\r\nm");
        put_number(output, offset);
        // Redis names the last byte.
        put_number(output, offset + length as u64 - 1);
        output.put(b"\r\n");
    }

    #[inline]
    fn write<'p>(&mut self, output: &mut Output<'p>, _: u32, offset: u64, data: &'p [u8]) {
        output.put(b"*4\r\n$8\r\nSETRANGE\r\n$1\r\nm");
        put_number(output, offset);
        output.put(b"\r\n$");
        output.put_decimal(data.len() as u64);
        output.put(b"\r\n");
        output.put_payload(data);
        output.put(b"\r\n");
    }

    #[inline]
    fn reply(&mut self, bytes: &[u8]) -> Result<Option<Reply>, String> {
        let Some((head, start)) = line(bytes)? else {
            return Ok(None);
        };
        match head {
            [b':', ..] => Ok(Some(Reply {
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
