//! NBD: fixed newstyle negotiation and simple replies.
//! <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>

use crate::protocol::{PeerReply, PeerTarget, Protocol};
use crate::send_buffer::SendBuffer;
use std::io::{self, Read, Write};
use std::net::TcpStream;

const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

/// Fixed newstyle, and no zeroes after the handshake.
const HANDSHAKE_FLAGS: u16 = 0b11;

const OPTION_GO: u32 = 7;
const OPTION_ACCEPTED: u32 = 1;
const OPTION_ERROR: u32 = 1 << 31;

const COMMAND_READ: u16 = 0;
const COMMAND_WRITE: u16 = 1;

/// Bytes of a simple reply before its data.
const REPLY_HEADER: usize = 16;

/// The client side of NBD. It has no state: a simple reply does not say how much data it has, so
/// the cookie of a request contains that length.
pub(crate) struct Nbd;

fn handshake(mut stream: &TcpStream) -> io::Result<()> {
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting)?;
    let flags = u16::from_be_bytes([greeting[16], greeting[17]]);
    if &greeting[..8] != b"NBDMAGIC" || &greeting[8..16] != OPTION_MAGIC || flags & 1 == 0 {
        return Err(io::Error::other(
            "the server does not support NBD's fixed newstyle negotiation",
        ));
    }
    let mut request = u32::from(flags & HANDSHAKE_FLAGS).to_be_bytes().to_vec();
    request.extend_from_slice(OPTION_MAGIC);
    request.extend_from_slice(&OPTION_GO.to_be_bytes());
    // The data of the option: an export with an empty name, and no information requests.
    request.extend_from_slice(&6_u32.to_be_bytes());
    request.extend_from_slice(&[0; 6]);
    stream.write_all(&request)?;
    loop {
        let mut header = [0; 20];
        stream.read_exact(&mut header)?;
        let word = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        if header[..8] != OPTION_REPLY_MAGIC.to_be_bytes() {
            return Err(io::Error::other(
                "the server's reply to NBD_OPT_GO is malformed",
            ));
        }
        let length = u64::from(word(16));
        io::copy(&mut stream.take(length), &mut io::sink())?;
        match word(12) {
            OPTION_ACCEPTED => return Ok(()),
            error if error & OPTION_ERROR != 0 => {
                return Err(io::Error::other(format!("NBD_OPT_GO: {error:#x}")));
            }
            _ => {}
        }
    }
}

#[inline]
fn put(output: &mut SendBuffer<'_>, command: u16, cookie: u64, offset: u64, length: u32) {
    let mut bytes = [0; 28];
    bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    bytes[6..8].copy_from_slice(&command.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.to_be_bytes());
    bytes[16..24].copy_from_slice(&offset.to_be_bytes());
    bytes[24..].copy_from_slice(&length.to_be_bytes());
    output.put(&bytes);
}

impl Protocol for Nbd {
    fn greet(stream: &TcpStream, _: &PeerTarget) -> Result<Self, String> {
        handshake(stream).map_err(|error| format!("NBD handshake: {error}"))?;
        Ok(Self)
    }

    #[inline]
    fn read(&mut self, output: &mut SendBuffer<'_>, ticket: u32, offset: u64, length: usize) {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        put(
            output,
            COMMAND_READ,
            u64::from(ticket) << 32 | u64::from(length),
            offset,
            length,
        );
    }

    #[inline]
    fn write<'p>(&mut self, output: &mut SendBuffer<'p>, ticket: u32, offset: u64, data: &'p [u8]) {
        put(
            output,
            COMMAND_WRITE,
            u64::from(ticket) << 32,
            offset,
            u32::try_from(data.len()).unwrap_or(u32::MAX),
        );
        output.put_payload(data);
    }

    #[inline]
    fn reply(&mut self, bytes: &[u8]) -> Result<Option<PeerReply>, String> {
        let Some(header) = bytes.first_chunk::<REPLY_HEADER>() else {
            return Ok(None);
        };
        let word = |at: usize| {
            u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let (magic, error, ticket, data) = (word(0), word(4), word(8), word(12));
        if magic != REPLY_MAGIC || error != 0 {
            return Err(format!(
                "the NBD server has replied with magic {magic:#x} and error {error}"
            ));
        }
        let length = REPLY_HEADER + data as usize;
        let reply = PeerReply {
            length,
            data: REPLY_HEADER..length,
            ticket: Some(ticket),
        };
        Ok((bytes.len() >= length).then_some(reply))
    }
}
