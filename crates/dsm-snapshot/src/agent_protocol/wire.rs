//! The message format between a master and an agent: reads messages from a stream and writes them
//! to one. A length that a peer sends never makes the buffer longer than the bound of its kind.
//!
//! A message is a header of 16 bytes and a payload, integers little-endian:
//!
//! ```text
//! offset  size  field
//!      0     2  magic      "DA"
//!      2     1  version    1
//!      3     1  kind       1 control, 2 frame, 3 data
//!      4     4  length     of the payload
//!      8     4  checksum   CRC-32C of the payload; 0 for a frame, which has its own
//!     12     4  reserved   0
//! ```
//!
//! *Control* is JSON: a request or a response. A *frame* is a frame of a snapshot file, see
//! docs/snapshot-format.md. *Data* is an offset (8 bytes) and the bytes of memory at that offset.

use crate::format::{FRAME_HEADER, MAX_FRAME};
use dsm_core::layout::MAX_ATOMIC;
use dsm_core::protocol::{Foreign, PROTOCOL_PREFIX};
use serde::Serialize;
use std::io::{self, Read, Write};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The version of the message format.
const VERSION: u8 = 1;

const MAGIC: [u8; 2] = *b"DA";

/// Bytes of the offset in a data message.
const OFFSET: usize = 8;

/// The most bytes of memory in one data message.
#[allow(clippy::cast_possible_truncation)] // 1 MiB
pub const MAX_DATA: usize = MAX_ATOMIC as usize;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct MessageHeader {
    magic: [u8; 2],
    version: u8,
    kind: u8,
    length: U32,
    checksum: U32,
    reserved: U32,
}

const HEADER: usize = size_of::<MessageHeader>();
const _: () = assert!(HEADER == 16 && size_of::<U16>() == 2);

/// A received message, whose payload is in the buffer of the receiver.
#[derive(Debug, PartialEq, Eq)]
pub enum AgentMessage<'a> {
    /// The JSON of a request or a response.
    Control(&'a [u8]),
    /// A frame of a snapshot file.
    Frame(&'a [u8]),
    /// Bytes of the memory.
    Data {
        /// The offset of the first byte in the segment, or in the requested range.
        offset: u64,
        /// The bytes, at most [`MAX_DATA`].
        bytes: &'a [u8],
    },
}

fn malformed(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Receives one message, whose payload then fills `buffer`. A control message may have `longest`
/// bytes.
///
/// # Errors
/// When the stream fails or ends, and [`io::ErrorKind::InvalidData`] for bytes that are not a
/// message.
pub(super) fn receive<'a>(
    stream: &mut impl Read,
    buffer: &'a mut Vec<u8>,
    longest: usize,
) -> io::Result<AgentMessage<'a>> {
    let mut head = [0; HEADER];
    // Only the first bytes: a peer of another protocol may send fewer bytes than a header has.
    stream.read_exact(&mut head[..PROTOCOL_PREFIX])?;
    if !head.starts_with(&MAGIC) {
        return Err(malformed(match Foreign::recognise(&head) {
            Some(foreign) => {
                format!("it sent bytes that are not a message of a snapshot agent: {foreign}")
            }
            None => "it sent bytes that are not a message of a snapshot agent".to_owned(),
        }));
    }
    stream.read_exact(&mut head[PROTOCOL_PREFIX..])?;
    let header: MessageHeader = zerocopy::transmute!(head);
    if header.version != VERSION {
        return Err(malformed(format!(
            "it speaks version {}, this program {VERSION}: install the same release",
            header.version
        )));
    }
    let length = header.length.get() as usize;
    let (least, most) = match header.kind {
        CONTROL => (0, longest),
        FRAME => (FRAME_HEADER, FRAME_HEADER + MAX_FRAME as usize),
        DATA => (OFFSET, OFFSET + MAX_DATA),
        kind => {
            return Err(malformed(format!(
                "it sent a message of the unknown kind {kind}"
            )));
        }
    };
    if !(least..=most).contains(&length) {
        return Err(malformed(format!(
            "it sent a message of {length} bytes, where {least} to {most} are allowed"
        )));
    }
    buffer.resize(length, 0);
    stream.read_exact(buffer)?;
    let payload = &buffer[..];
    if header.kind != FRAME && crc32c::crc32c(payload) != header.checksum.get() {
        return Err(malformed("it sent a message whose checksum does not match"));
    }
    match header.kind {
        CONTROL => Ok(AgentMessage::Control(payload)),
        FRAME => Ok(AgentMessage::Frame(payload)),
        _ => {
            let (offset, bytes) = payload
                .split_first_chunk()
                .ok_or_else(|| malformed("it sent data without an offset"))?;
            Ok(AgentMessage::Data {
                offset: u64::from_le_bytes(*offset),
                bytes,
            })
        }
    }
}

const CONTROL: u8 = 1;
const FRAME: u8 = 2;
const DATA: u8 = 3;

/// Sends a request or a response.
pub(super) fn send_control(stream: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let payload = serde_json::to_vec(message)?;
    let head = header(CONTROL, payload.len(), crc32c::crc32c(&payload));
    // One write, so that the peer receives the header and the payload together.
    stream.write_all(&[head.as_bytes(), &payload].concat())
}

/// Sends a frame: its header and its stored bytes.
pub fn send_frame(stream: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    stream.write_all(header(FRAME, frame.len(), 0).as_bytes())?;
    stream.write_all(frame)
}

/// Sends bytes of memory, at most [`MAX_DATA`].
pub fn send_data(stream: &mut impl Write, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let offset = offset.to_le_bytes();
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&offset), bytes);
    stream.write_all(header(DATA, OFFSET + bytes.len(), checksum).as_bytes())?;
    stream.write_all(&offset)?;
    stream.write_all(bytes)
}

#[allow(clippy::cast_possible_truncation)] // each kind of message bounds its length
fn header(kind: u8, length: usize, checksum: u32) -> MessageHeader {
    MessageHeader {
        magic: MAGIC,
        version: VERSION,
        kind,
        length: (length as u32).into(),
        checksum: checksum.into(),
        reserved: U32::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::{AgentRequest, MAX_REQUEST, MAX_RESPONSE};
    use super::*;
    use dsm_core::layout::MAX_LAYOUT_TEXT;
    use proptest::prelude::*;

    #[test]
    fn a_message_is_received_as_it_was_sent() {
        let mut stream = Vec::new();
        let request = AgentRequest::Cut {
            copy_area: u64::MAX,
        };
        send_control(&mut stream, &request).unwrap();
        send_frame(&mut stream, &[7; 40]).unwrap();
        send_data(&mut stream, 5, b"abc").unwrap();
        let (mut stream, mut buffer) = (&stream[..], Vec::new());
        let AgentMessage::Control(json) = receive(&mut stream, &mut buffer, MAX_REQUEST).unwrap()
        else {
            panic!()
        };
        assert_eq!(
            serde_json::from_slice::<AgentRequest>(json).unwrap(),
            request
        );
        assert_eq!(
            receive(&mut stream, &mut buffer, MAX_REQUEST).unwrap(),
            AgentMessage::Frame(&[7; 40])
        );
        assert_eq!(
            receive(&mut stream, &mut buffer, MAX_REQUEST).unwrap(),
            AgentMessage::Data {
                offset: 5,
                bytes: b"abc"
            }
        );
        assert_eq!(
            receive(&mut stream, &mut buffer, MAX_REQUEST)
                .unwrap_err()
                .kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn a_changed_byte_is_detected() {
        let mut stream = Vec::new();
        send_data(&mut stream, 5, b"abcdef").unwrap();
        for place in (0..stream.len()).filter(|place| !(12..16).contains(place)) {
            let mut changed = stream.clone();
            changed[place] ^= 1;
            assert!(
                receive(&mut &changed[..], &mut Vec::new(), MAX_REQUEST).is_err(),
                "{place}"
            );
        }
    }

    #[test]
    fn the_longest_hello_fits_into_the_bound_for_requests() {
        // JSON escapes each byte of this text as two bytes.
        let hello = AgentRequest::Hello {
            layout: "\"".repeat(MAX_LAYOUT_TEXT),
            index: u32::MAX,
        };
        let mut stream = Vec::new();
        send_control(&mut stream, &hello).unwrap();
        assert!(matches!(
            receive(&mut &stream[..], &mut Vec::new(), MAX_REQUEST),
            Ok(AgentMessage::Control(_))
        ));
        let longer = header(CONTROL, MAX_REQUEST + 1, 0);
        let error = receive(&mut longer.as_bytes(), &mut Vec::new(), MAX_REQUEST).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_receiver_panic_or_take_much_memory(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = Vec::new();
            let _ = receive(&mut &bytes[..], &mut buffer, MAX_RESPONSE);
            let mut started = header(CONTROL, 1, 0).as_bytes().to_vec();
            started.truncate(4);
            started.extend(bytes);
            let _ = receive(&mut &started[..], &mut buffer, MAX_RESPONSE);
            prop_assert!(buffer.len() <= MAX_RESPONSE.max(MAX_DATA + OFFSET).max(MAX_FRAME as usize + FRAME_HEADER));
        }
    }
}
