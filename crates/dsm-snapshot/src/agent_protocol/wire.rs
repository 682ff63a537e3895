//! What a master and an agent say to each other: messages over TCP. Pure, but for reading and
//! writing a stream.
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
//! *Control* is JSON: an [`Ask`] or an [`Answer`]. A *frame* is one of a snapshot file, see
//! docs/snapshot-format.md. *Data* is an offset (8 bytes) and the bytes of memory from there on.

use crate::FileName;
use crate::format::{FRAME_HEADER, MAX_FRAME};
use dsm_core::layout::{MAX_ATOMIC, MAX_LAYOUT_TEXT};
use dsm_core::printable::{self, printable};
use dsm_core::protocol::{Foreign, TELLING};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The version of these messages.
const VERSION: u8 = 1;

const MAGIC: [u8; 2] = *b"DA";

/// The longest answer, in bytes: far more than the longest, a list of snapshots, needs.
pub(super) const MAX_ANSWER: usize = 1 << 20;

/// The longest ask, in bytes: a greeting with the longest layout text, in which JSON takes two
/// bytes for a line break, a quote or a backslash, and 1 KiB for what is around it.
pub const MAX_ASK: usize = 2 * MAX_LAYOUT_TEXT + 1024;

/// The longest id of a claim, in bytes. Those of dsm-snapshot and dsmctl have 32 hexadecimal
/// digits.
const MAX_CLAIM_ID: usize = 64;

/// Bytes before the data in a data message.
const OFFSET: usize = 8;

/// The most bytes of memory in one data message.
#[allow(clippy::cast_possible_truncation)] // 1 MiB
pub const MAX_DATA: usize = MAX_ATOMIC as usize;

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
pub enum Purpose {
    /// To read the memory as it is at one instant.
    Snapshot,
    /// To put other bytes into it.
    Restore,
}

/// What a claim is called in logs: 1 to 64 of `a-z`, `0-9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct ClaimId(String);

impl ClaimId {
    /// That of a snapshot, whose id is given as hexadecimal digits.
    #[must_use]
    pub fn of_hex(id: &str) -> Self {
        Self(id.to_owned())
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ClaimId {
    type Error = String;

    fn try_from(id: String) -> Result<Self, String> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if id.is_empty() || id.len() > MAX_CLAIM_ID || !id.bytes().all(allowed) {
            let found = printable(&id, MAX_CLAIM_ID);
            return Err(format!(
                "the id {found:?}, where 1 to {MAX_CLAIM_ID} of a-z, 0-9 and - are allowed"
            ));
        }
        Ok(Self(id))
    }
}

/// Text for people that the other side has written.
fn foreign_text<'de, D: Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    let text = String::deserialize(source)?;
    Ok(printable(&text, printable::LOG).into_owned())
}

/// The name of a snapshot file that the other side has.
fn file_name<'de, D: Deserializer<'de>>(source: D) -> Result<String, D::Error> {
    let name = String::deserialize(source)?;
    if FileName::parse(&name).is_none() {
        let found = printable(&name, MAX_SHOWN_NAME);
        return Err(D::Error::custom(format_args!(
            "{found:?} is not the name of a snapshot"
        )));
    }
    Ok(name)
}

/// How much of a name is shown that is none of a snapshot, in bytes: more than any that is.
pub const MAX_SHOWN_NAME: usize = 64;

/// What a master asks an agent for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
// `docs/agent-protocol.md` says what every field means.
#[allow(missing_docs)]
pub enum Ask {
    /// The first one: who is meant, and by which mcomp.cfg. The layout is its canonical text.
    Hello { layout: String, index: u32 },
    /// Opens the segment, and keeps others from freezing it. The id is for logs.
    Claim { purpose: Purpose, id: ClaimId },
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
    /// Sends a range of the memory in the snapshot of that name as data; offsets count from the
    /// range's begin.
    Fetch {
        name: String,
        address: u64,
        length: u64,
    },
    /// Restores the own part of the newest snapshot into a memory that waits.
    Recover,
}

/// What an agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
// `docs/agent-protocol.md` says what every field means.
#[allow(missing_docs)]
pub enum Answer {
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
        #[serde(deserialize_with = "file_name")]
        name: String,
        cut_time: u64,
        incarnation: u64,
    },
    Refused {
        reason: Reason,
        #[serde(deserialize_with = "foreign_text")]
        message: String,
    },
}

/// A whole snapshot that an agent has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The name of its file.
    #[serde(deserialize_with = "file_name")]
    pub name: String,
    /// When its cut was made, in ns since 1970.
    pub cut_time: u64,
    /// Bytes of the memory that it shows.
    pub size: u64,
}

/// Why an agent refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
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
pub enum Message<'a> {
    /// JSON: an [`Ask`] or an [`Answer`].
    Control(&'a [u8]),
    /// A frame of a snapshot file.
    Frame(&'a [u8]),
    /// Bytes of the memory.
    Data {
        /// The first one's place, as an offset into the segment, or into the range that was asked
        /// for.
        offset: u64,
        /// The bytes, at most [`MAX_DATA`].
        bytes: &'a [u8],
    },
}

fn garbage(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Receives one message, whose payload is then all of `buffer`. A control message may have
/// `longest` bytes.
///
/// # Errors
/// When the stream fails or ends, and [`io::ErrorKind::InvalidData`] for bytes that are no message.
pub(super) fn receive<'a>(
    stream: &mut impl Read,
    buffer: &'a mut Vec<u8>,
    longest: usize,
) -> io::Result<Message<'a>> {
    let mut head = [0; HEADER];
    // The first bytes alone: what another program says may be shorter than a header.
    stream.read_exact(&mut head[..TELLING])?;
    if !head.starts_with(&MAGIC) {
        return Err(garbage(match Foreign::recognise(&head) {
            Some(foreign) => {
                format!("it sent something that is no message of a snapshot agent: {foreign}")
            }
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
        CONTROL => (0, longest),
        FRAME => (FRAME_HEADER, FRAME_HEADER + MAX_FRAME as usize),
        DATA => (OFFSET, OFFSET + MAX_DATA),
        kind => {
            return Err(garbage(format!(
                "it sent a message of the unknown kind {kind}"
            )));
        }
    };
    if !(least..=most).contains(&length) {
        return Err(garbage(format!(
            "it sent a message of {length} bytes, where {least} to {most} are allowed"
        )));
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
            let (offset, bytes) = payload
                .split_first_chunk()
                .ok_or_else(|| garbage("it sent data without an offset"))?;
            Ok(Message::Data {
                offset: u64::from_le_bytes(*offset),
                bytes,
            })
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
        let ask = Ask::Cut {
            copy_area: u64::MAX,
        };
        send_control(&mut stream, &ask).unwrap();
        send_frame(&mut stream, &[7; 40]).unwrap();
        send_data(&mut stream, 5, b"abc").unwrap();
        let (mut stream, mut buffer) = (&stream[..], Vec::new());
        let Message::Control(json) = receive(&mut stream, &mut buffer, MAX_ASK).unwrap() else {
            panic!()
        };
        assert_eq!(serde_json::from_slice::<Ask>(json).unwrap(), ask);
        assert_eq!(
            receive(&mut stream, &mut buffer, MAX_ASK).unwrap(),
            Message::Frame(&[7; 40])
        );
        assert_eq!(
            receive(&mut stream, &mut buffer, MAX_ASK).unwrap(),
            Message::Data {
                offset: 5,
                bytes: b"abc"
            }
        );
        assert_eq!(
            receive(&mut stream, &mut buffer, MAX_ASK)
                .unwrap_err()
                .kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[test]
    fn a_changed_byte_is_found() {
        let mut stream = Vec::new();
        send_data(&mut stream, 5, b"abcdef").unwrap();
        for place in (0..stream.len()).filter(|place| !(12..16).contains(place)) {
            let mut changed = stream.clone();
            changed[place] ^= 1;
            assert!(
                receive(&mut &changed[..], &mut Vec::new(), MAX_ASK).is_err(),
                "{place}"
            );
        }
    }

    #[test]
    fn the_longest_greeting_is_not_too_long() {
        // Bytes that JSON escapes as two, with as many line breaks as the text has.
        let hello = Ask::Hello {
            layout: "\"".repeat(MAX_LAYOUT_TEXT),
            index: u32::MAX,
        };
        let mut stream = Vec::new();
        send_control(&mut stream, &hello).unwrap();
        assert!(matches!(
            receive(&mut &stream[..], &mut Vec::new(), MAX_ASK),
            Ok(Message::Control(_))
        ));
        let longer = header(CONTROL, MAX_ASK + 1, 0);
        let error = receive(&mut longer.as_bytes(), &mut Vec::new(), MAX_ASK).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }

    #[test]
    fn ids_and_names_of_the_other_side_have_a_syntax_and_its_texts_are_harmless() {
        let claim = |id: &str| {
            serde_json::from_value::<Ask>(
                serde_json::json!({"claim": {"purpose": "restore", "id": id}}),
            )
        };
        for good in ["0123456789abcdef", "a-b", &"a".repeat(64)] {
            claim(good).unwrap();
        }
        for bad in ["", "A", "a b", "a\x1b[2J", "ä", &"a".repeat(65)] {
            let error = claim(bad).unwrap_err().to_string();
            assert!(error.len() < 200 && !error.contains('\x1b'), "{error}");
        }
        let listed = |name: &str| {
            let file = serde_json::json!({"name": name, "cut_time": 0, "size": 0});
            serde_json::from_value::<Answer>(serde_json::json!({"snapshots": {"files": [file]}}))
        };
        listed("dsm-20261123T040000Z.dsnap").unwrap();
        listed("../\x1b]0;").unwrap_err();
        let refused = serde_json::json!({"refused": {"reason": "failed", "message": "\x1b[31m".repeat(1000)}});
        let Ok(Answer::Refused { message, .. }) = serde_json::from_value(refused) else {
            panic!()
        };
        assert!(
            message.len() <= printable::LOG && !message.contains('\x1b'),
            "{message}"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_receiver_panic_or_take_much_memory(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = Vec::new();
            let _ = receive(&mut &bytes[..], &mut buffer, MAX_ANSWER);
            let mut started = header(CONTROL, 1, 0).as_bytes().to_vec();
            started.truncate(4);
            started.extend(bytes);
            let _ = receive(&mut &started[..], &mut buffer, MAX_ANSWER);
            prop_assert!(buffer.len() <= MAX_ANSWER.max(MAX_DATA + OFFSET).max(MAX_FRAME as usize + FRAME_HEADER));
        }
    }
}
