//! The protocol of the raw servers: a fixed header, followed by the data.

use crate::protocol::{PeerReply, PeerTarget, Protocol};
use crate::send_buffer::SendBuffer;
use std::net::TcpStream;

/// Bytes of a header: operation and length (u32 each) and offset (u64), little-endian. A reply has
/// the header of its request.
pub(crate) const HEADER: usize = 16;

/// The operations. Data follows the header of a write's request and of a read's reply.
pub(crate) const READ: u32 = 1;
pub(crate) const WRITE: u32 = 2;

/// The fields of a header.
#[derive(Clone, Copy)]
pub(crate) struct BenchHeader {
    pub(crate) operation: u32,
    pub(crate) length: u32,
    pub(crate) offset: u64,
}

impl BenchHeader {
    #[inline]
    pub(crate) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&self.operation.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`; `None` while it is incomplete.
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

/// The client side of the raw protocol. It has no state.
pub(crate) struct Raw;

impl Raw {
    #[inline]
    fn put(output: &mut SendBuffer<'_>, operation: u32, offset: u64, length: usize) {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        output.put(
            &BenchHeader {
                operation,
                length,
                offset,
            }
            .encode(),
        );
    }
}

impl Protocol for Raw {
    fn greet(_: &TcpStream, _: &PeerTarget) -> Result<Self, String> {
        Ok(Self)
    }

    #[inline]
    fn read(&mut self, output: &mut SendBuffer<'_>, _: u32, offset: u64, length: usize) {
        Self::put(output, READ, offset, length);
    }

    #[inline]
    fn write<'p>(&mut self, output: &mut SendBuffer<'p>, _: u32, offset: u64, data: &'p [u8]) {
        Self::put(output, WRITE, offset, data.len());
        output.put_payload(data);
    }

    #[inline]
    fn reply(&mut self, bytes: &[u8]) -> Result<Option<PeerReply>, String> {
        let Some(header) = BenchHeader::decode(bytes) else {
            return Ok(None);
        };
        let data = match header.operation {
            READ => header.length as usize,
            WRITE => 0,
            other => return Err(format!("the raw server has replied with operation {other}")),
        };
        let length = HEADER + data;
        Ok((bytes.len() >= length).then_some(PeerReply {
            length,
            data: HEADER..length,
            ticket: None,
        }))
    }
}
