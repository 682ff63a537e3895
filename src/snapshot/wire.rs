//! What a master and an agent say to each other: messages over TCP. Pure, but for reading and writing a stream.
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
//! *Control* is JSON: an [`Ask`] or an [`Answer`]. A *frame* is one of a snapshot file, see docs/snapshot-format.md.
//! *Data* is an offset (8 bytes) and the bytes of memory from there on.

use super::format::{FRAME_HEADER, MAX_FRAME};
use crate::layout::MAX_ATOMIC;
use crate::protocol::{Foreign, TELLING};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The version of these messages.
const VERSION: u8 = 1;

const MAGIC: [u8; 2] = *b"DA";

/// The longest control message, in bytes: a layout of the most servers fits.
const MAX_CONTROL: usize = 1 << 20;

/// Bytes before the data in a data message.
const OFFSET: usize = 8;

/// The most bytes of memory in one data message.
#[allow(clippy::cast_possible_truncation)] // 1 MiB
pub(super) const MAX_DATA: usize = MAX_ATOMIC as usize;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 2],
    version: u8,
    kind: u8,
    length: U32,
    checksum: U32,
    reserved: U32,
}

const HEADER: usize = size_of::<Header>();
const _: () = assert!(HEADER == 16 && size_of::<U16>() == 2);

/// What a claim is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Purpose {
    Snapshot,
    Restore,
}

/// What a master asks an agent for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Ask {
    /// The first one: who is meant, and by which mcomp.cfg. The layout is its canonical text.
    Hello { layout: String, index: u32 },
    /// Opens the segment, and keeps others from freezing it. The id is for logs.
    Claim { purpose: Purpose, id: String },
    /// Keeps writers out for at most so long.
    Freeze { lease_us: u64 },
    /// Begins a cut, whose copy area has at most so many bytes, and lets the writers go on.
    Cut { copy_area: u64 },
    /// Sends the pages of the cut as frames; level 0 is no compression.
    Send { level: i32, frame_size: u32 },
    /// Shuts the frozen memory, to put other bytes into it.
    Shut,
    /// Sets a range of the segment to zeros. Has no answer.
    Zeros { offset: u64, length: u64 },
    /// Every byte was sent.
    Written,
    /// Opens the memory as a new one.
    Commit,
    /// Opens the memory as it was, if nothing was changed.
    Cancel,
    /// A number that changes when somebody changes the memory.
    Activity,
    /// Opens a memory that waits, as zeros.
    Accept,
    /// Which whole snapshots there are.
    Snapshots,
    /// Sends a range of the memory in the snapshot of that name as data; offsets count from the range's begin.
    Fetch { name: String, address: u64, length: u64 },
    /// Restores the own part of the newest snapshot into a memory that waits.
    Recover,
}

/// What an agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Answer {
    Welcome {
        hostname: String,
    },
    Claimed {
        incarnation: u64,
    },
    /// `shut`: it waits for a restore, and was not frozen.
    Frozen {
        shut: bool,
    },
    /// How long writers were kept out.
    Cut {
        pause_us: u64,
    },
    /// All frames were sent; writers have saved so many pages.
    Sent {
        pages_copied: u64,
    },
    Shut,
    Written,
    Committed {
        incarnation: u64,
    },
    Cancelled {
        open: bool,
    },
    Activity {
        number: u64,
    },
    Snapshots {
        files: Vec<Held>,
    },
    Fetched,
    Recovered {
        name: String,
        cut_time: u64,
        incarnation: u64,
    },
    Refused {
        reason: Reason,
        message: String,
    },
}

/// A whole snapshot that an agent has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) name: String,
    /// In ns since 1970.
    pub(super) cut_time: u64,
    /// Bytes of the memory that it shows.
    pub(super) size: u64,
}

/// Why an agent refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Reason {
    /// The two mcomp.cfg differ, or lead to another server.
    Layout,
    /// Somebody else has the claim.
    UnderWay,
    /// There is no segment to be had.
    NoSegment,
    /// The freeze lasted too long.
    Late,
    /// The cut was abandoned.
    Abandoned,
    /// The memory waits for a restore.
    Shut,
    /// The memory does not wait for a restore.
    InUse,
    /// No snapshot, or none that is sound.
    NoSnapshot,
    /// Out of turn, or not understood.
    Protocol,
    /// It met an error of its own.
    Failed,
}

/// A message as it was received, in the buffer that was given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    Control(&'a [u8]),
    Frame(&'a [u8]),
    Data { offset: u64, bytes: &'a [u8] },
}

fn garbage(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Receives one message, whose payload is then all of `buffer`.
///
/// # Errors
/// When the stream fails or ends, and [`io::ErrorKind::InvalidData`] for bytes that are no message.
pub(super) fn receive<'a>(stream: &mut impl Read, buffer: &'a mut Vec<u8>) -> io::Result<Message<'a>> {
    let mut head = [0; HEADER];
    // The first bytes alone: what another program says may be shorter than a header.
    stream.read_exact(&mut head[..TELLING])?;
    if !head.starts_with(&MAGIC) {
        return Err(garbage(match Foreign::recognise(&head) {
            Some(foreign) => format!("it sent something that is no message of a snapshot agent: {foreign}"),
            None => "it sent something that is no message of a snapshot agent".to_owned(),
        }));
    }
    stream.read_exact(&mut head[TELLING..])?;
    let header: Header = zerocopy::transmute!(head);
    if header.version != VERSION {
        return Err(garbage(format!(
            "it speaks version {}, this program {VERSION}: install the same release",
            header.version
        )));
    }
    let length = header.length.get() as usize;
    let (least, most) = match header.kind {
        CONTROL => (0, MAX_CONTROL),
        FRAME => (FRAME_HEADER, FRAME_HEADER + MAX_FRAME as usize),
        DATA => (OFFSET, OFFSET + MAX_DATA),
        kind => return Err(garbage(format!("it sent a message of the unknown kind {kind}"))),
    };
    if !(least..=most).contains(&length) {
        return Err(garbage(format!("it sent a message of {length} bytes, where {least} to {most} are allowed")));
    }
    buffer.resize(length, 0);
    stream.read_exact(buffer)?;
    let payload = &buffer[..];
    if header.kind != FRAME && crc32c::crc32c(payload) != header.checksum.get() {
        return Err(garbage("it sent a message whose checksum does not match"));
    }
    match header.kind {
        CONTROL => Ok(Message::Control(payload)),
        FRAME => Ok(Message::Frame(payload)),
        _ => {
            let (offset, bytes) =
                payload.split_first_chunk().ok_or_else(|| garbage("it sent data without an offset"))?;
            Ok(Message::Data { offset: u64::from_le_bytes(*offset), bytes })
        }
    }
}

const CONTROL: u8 = 1;
const FRAME: u8 = 2;
const DATA: u8 = 3;

/// Sends an [`Ask`] or an [`Answer`].
pub(super) fn send_control(stream: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let payload = serde_json::to_vec(message)?;
    let head = header(CONTROL, payload.len(), crc32c::crc32c(&payload));
    // One write: the other side is waiting for all of it.
    stream.write_all(&[head.as_bytes(), &payload].concat())
}

/// Sends a frame, header and stored bytes.
pub(super) fn send_frame(stream: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    stream.write_all(header(FRAME, frame.len(), 0).as_bytes())?;
    stream.write_all(frame)
}

/// Sends bytes of memory, at most [`MAX_DATA`].
pub(super) fn send_data(stream: &mut impl Write, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let offset = offset.to_le_bytes();
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&offset), bytes);
    stream.write_all(header(DATA, OFFSET + bytes.len(), checksum).as_bytes())?;
    stream.write_all(&offset)?;
    stream.write_all(bytes)
}

#[allow(clippy::cast_possible_truncation)] // lengths are bounded by the kinds' most
fn header(kind: u8, length: usize, checksum: u32) -> Header {
    Header {
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
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_sent_is_received() {
        let mut stream = Vec::new();
        let ask = Ask::Cut { copy_area: u64::MAX };
        send_control(&mut stream, &ask).unwrap();
        send_frame(&mut stream, &[7; 40]).unwrap();
        send_data(&mut stream, 5, b"abc").unwrap();
        let (mut stream, mut buffer) = (&stream[..], Vec::new());
        let Message::Control(json) = receive(&mut stream, &mut buffer).unwrap() else { panic!() };
        assert_eq!(serde_json::from_slice::<Ask>(json).unwrap(), ask);
        assert_eq!(receive(&mut stream, &mut buffer).unwrap(), Message::Frame(&[7; 40]));
        assert_eq!(receive(&mut stream, &mut buffer).unwrap(), Message::Data { offset: 5, bytes: b"abc" });
        assert_eq!(receive(&mut stream, &mut buffer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_changed_byte_is_found() {
        let mut stream = Vec::new();
        send_data(&mut stream, 5, b"abcdef").unwrap();
        for place in (0..stream.len()).filter(|place| !(12..16).contains(place)) {
            let mut changed = stream.clone();
            changed[place] ^= 1;
            assert!(receive(&mut &changed[..], &mut Vec::new()).is_err(), "{place}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_receiver_panic_or_take_much_memory(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = Vec::new();
            let _ = receive(&mut &bytes[..], &mut buffer);
            let mut started = header(CONTROL, 1, 0).as_bytes().to_vec();
            started.truncate(4);
            started.extend(bytes);
            let _ = receive(&mut &started[..], &mut buffer);
            prop_assert!(buffer.len() <= MAX_CONTROL.max(MAX_DATA + OFFSET).max(MAX_FRAME as usize + FRAME_HEADER));
        }
    }
}
