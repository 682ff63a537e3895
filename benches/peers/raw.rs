//! The protocol of our own raw servers: a header, and nothing else that is not data.

use crate::output::Output;
use crate::protocol::{Protocol, Reply, Target};
use std::net::TcpStream;

/// Bytes of a header: what to do, how many bytes (u32 each), and where (u64), little-endian. A
/// reply repeats it.
pub(crate) const HEADER: usize = 16;

/// What a header asks for. Data follows a request to write, and a reply to a read.
pub(crate) const READ: u32 = 1;
pub(crate) const WRITE: u32 = 2;

/// A header's fields.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    pub(crate) operation: u32,
    pub(crate) length: u32,
    pub(crate) offset: u64,
}

impl Header {
    #[inline]
    pub(crate) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&self.operation.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    /// `None` while it is not all there.
    #[inline]
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (operation, rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (offset, _) = rest.split_first_chunk()?;
        Some(Self {
            operation: u32::from_le_bytes(*operation),
            length: u32::from_le_bytes(*length),
            offset: u64::from_le_bytes(*offset),
        })
    }
}

/// It has no state.
pub(crate) struct Raw;

impl Raw {
    #[inline]
    fn put(output: &mut Output<'_>, operation: u32, offset: u64, length: usize) {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        output.put(
            &Header {
                operation,
                length,
                offset,
            }
            .encode(),
        );
    }
}

impl Protocol for Raw {
    fn greet(_: &TcpStream, _: &Target) -> Result<Self, String> {
        Ok(Self)
    }

    #[inline]
    fn read(&mut self, output: &mut Output<'_>, _: u32, offset: u64, length: usize) {
        Self::put(output, READ, offset, length);
    }

    #[inline]
    fn write<'p>(&mut self, output: &mut Output<'p>, _: u32, offset: u64, data: &'p [u8]) {
        Self::put(output, WRITE, offset, data.len());
        output.put_payload(data);
    }

    #[inline]
    fn reply(&mut self, bytes: &[u8]) -> Result<Option<Reply>, String> {
        let Some(header) = Header::decode(bytes) else {
            return Ok(None);
        };
        let data = match header.operation {
            READ => header.length as usize,
            WRITE => 0,
            other => return Err(format!("the raw server answers operation {other}")),
        };
        let length = HEADER + data;
        Ok((bytes.len() >= length).then_some(Reply {
            length,
            data: HEADER..length,
            ticket: None,
        }))
    }
}
