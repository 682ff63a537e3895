//! The layout of the file's structures in bytes, as docs/snapshot-format.md specifies it. All
//! integers are little-endian.
//!
//! The values in these structures are not checked. [`Header`](super::Header),
//! [`FrameHeader`](super::FrameHeader) and [`FrameExtent`](super::FrameExtent) are the checked forms.

use dsm_core::layout::{MAX_ADDRESS_TEXT, MAX_ATOMIC, MAX_NAME, MAX_SERVERS, PAGE};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first bytes of a file. They contain line ends, so that a transfer in text mode, which
/// changes line ends, is detected.
pub(super) const MAGIC: [u8; 8] = *b"dsmS\r\n\x1a\n";

/// The last bytes of a complete file.
pub(super) const END_MAGIC: [u8; 8] = *b"dsmS-end";

/// The version of the format that this program writes, and the only one that it reads.
pub const VERSION: u32 = 1;

/// Bytes of a page; a frame covers whole pages.
#[allow(clippy::cast_possible_truncation)] // 4096
pub(super) const PAGE_BYTES: usize = PAGE as usize;

/// The most bytes of memory that one frame covers. It bounds the buffers of a reader.
#[allow(clippy::cast_possible_truncation)] // 1 MiB
pub const MAX_FRAME: u32 = MAX_ATOMIC as u32;

/// The default for the most bytes of memory that a frame covers. zstd gains little from more, and a
/// reader of one page has to decompress the whole frame.
pub const DEFAULT_FRAME: u32 = 256 << 10;

/// The longest name and version of the program that wrote the file, in bytes.
pub(super) const MAX_TOOL: usize = 64;

/// The longest hostname, in bytes; Linux allows 64, DNS 253.
pub const MAX_HOSTNAME: usize = 253;

/// Flag: the snapshot lacks at least one server.
pub(super) const PARTIAL: u32 = 1;

/// The master's index of a file that was written by a machine without a server.
pub(super) const NO_MASTER: u32 = u32::MAX;

/// The values of a frame's compression field.
pub(super) const STORED: u8 = 0;
pub(super) const ZSTD: u8 = 1;

/// The fixed part of the header. The texts, the servers and a checksum follow.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawHeader {
    pub(super) magic: [u8; 8],
    pub(super) version: U32,
    /// Bytes of the whole header, with its checksum.
    pub(super) length: U32,
    pub(super) id: [u8; 16],
    pub(super) cut_time: U64,
    pub(super) k: U64,
    pub(super) n: U32,
    pub(super) master: U32,
    pub(super) frame_size: U32,
    pub(super) flags: U32,
    pub(super) name_length: U16,
    pub(super) tool_length: U16,
    pub(super) reserved: U32,
}

/// The fixed part of a server's entry in the header; its address and hostname follow.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawServer {
    /// Zero when the snapshot lacks the server.
    pub(super) incarnation: U64,
    pub(super) address_length: U16,
    pub(super) hostname_length: U16,
}

/// The header of a frame. The stored bytes follow.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawFrame {
    pub(super) server: U32,
    pub(super) pages: U32,
    pub(super) first_page: U64,
    pub(super) raw_length: U32,
    pub(super) stored_length: U32,
    pub(super) compression: u8,
    pub(super) reserved: [u8; 3],
    /// CRC-32C of the fields above, then of the stored bytes.
    pub(super) checksum: U32,
}

/// The entry of one frame in the index.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawEntry {
    pub(super) address: U64,
    /// The offset of the frame's header in the file.
    pub(super) offset: U64,
    pub(super) raw_length: U32,
    pub(super) stored_length: U32,
}

/// The footer, which ends the file.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RawFooter {
    pub(super) index_offset: U64,
    pub(super) count: U64,
    /// CRC-32C of the index.
    pub(super) index_checksum: U32,
    pub(super) reserved: U32,
    /// BLAKE3 of all bytes of the file before this field.
    pub(super) hash: [u8; 32],
    pub(super) magic: [u8; 8],
}

/// Bytes of a frame's header.
pub const FRAME_HEADER: usize = size_of::<RawFrame>();

/// Bytes of an entry of the index.
pub(super) const ENTRY: usize = size_of::<RawEntry>();

/// Bytes of the footer.
pub(super) const FOOTER: usize = size_of::<RawFooter>();

/// Bytes of the footer before its hash. The hash covers them and all bytes of the file before them.
pub(super) const FOOTER_HASHED: usize = 24;

/// Bytes of a checksum.
pub(super) const CHECKSUM: usize = 4;

/// The longest header, in bytes. It bounds what is read before the file is known to be a snapshot.
pub(super) const MAX_HEADER: usize = size_of::<RawHeader>()
    + MAX_NAME
    + MAX_TOOL
    + MAX_SERVERS * (size_of::<RawServer>() + MAX_ADDRESS_TEXT + MAX_HOSTNAME)
    + CHECKSUM;

const _: () = assert!(size_of::<RawHeader>() == 72 && size_of::<RawServer>() == 12);
const _: () = assert!(FRAME_HEADER == 32 && ENTRY == 24 && FOOTER == 64);
const _: () = assert!(MAX_HEADER <= 1 << 20);
