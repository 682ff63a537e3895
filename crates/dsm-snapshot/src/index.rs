//! The index at the end of a file: it maps an address to the frame that covers it.

use super::Header;
use super::format::{ENTRY, FOOTER, FRAME_HEADER, RawEntry, RawFooter};
use dsm_core::layout::PAGE;
use std::ops::Range;
use zerocopy::{FromBytes, IntoBytes};

/// An entry of the index that was checked: where a frame is in the file, and which addresses it
/// covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameExtent {
    pub(super) address: u64,
    pub(super) offset: u64,
    pub(super) raw_length: u32,
    pub(super) stored_length: u32,
}

impl FrameExtent {
    /// The addresses that the frame covers.
    #[must_use]
    pub fn addresses(&self) -> Range<u64> {
        self.address..self.address + u64::from(self.raw_length)
    }

    /// The offset of the frame's header in the file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The length of the frame's data in the file, in bytes, without its header.
    #[must_use]
    pub fn stored_length(&self) -> u64 {
        u64::from(self.stored_length)
    }

    /// The length of the frame in the file, in bytes, with its header.
    pub(super) fn in_file(&self) -> u64 {
        FRAME_HEADER as u64 + u64::from(self.stored_length)
    }

    pub(super) fn encode(&self) -> [u8; ENTRY] {
        let raw = RawEntry {
            address: self.address.into(),
            offset: self.offset.into(),
            raw_length: self.raw_length.into(),
            stored_length: self.stored_length.into(),
        };
        zerocopy::transmute!(raw)
    }

    /// Checks an entry without looking at other entries; `frames` is the range of the file that may
    /// hold frames.
    pub(super) fn parse(
        bytes: &[u8; ENTRY],
        header: &Header,
        frames: &Range<u64>,
    ) -> Result<Self, &'static str> {
        let raw: RawEntry = zerocopy::transmute!(*bytes);
        let extent = Self {
            address: raw.address.get(),
            offset: raw.offset.get(),
            raw_length: raw.raw_length.get(),
            stored_length: raw.stored_length.get(),
        };
        let raw_length = extent.raw_length;
        if raw_length == 0
            || raw_length > header.frame_size()
            || !u64::from(raw_length).is_multiple_of(PAGE)
        {
            return Err("a length that is not a positive multiple of 4096 up to the frame size");
        }
        if extent.stored_length == 0 || extent.stored_length > raw_length {
            return Err("a stored length that is zero or exceeds its length");
        }
        let Ok((server, offset)) = header.layout().locate(extent.address) else {
            return Err("an address outside the memory");
        };
        if !header.has(server) {
            return Err("addresses of a server that is missing");
        }
        if !offset.is_multiple_of(PAGE)
            || u64::from(raw_length) > header.layout().share_size() - offset
        {
            return Err("addresses that are not whole pages of one server");
        }
        let end = extent.offset.checked_add(extent.in_file());
        if extent.offset < frames.start || end.is_none_or(|end| end > frames.end) {
            return Err("an offset that is not between the header and the index");
        }
        Ok(extent)
    }
}

/// The footer, checked against the length of the file.
#[derive(Debug, Clone)]
pub(super) struct Footer {
    /// The range of the file that holds frames: from the header's end to the index.
    pub(super) frames: Range<u64>,
    /// The number of entries of the index.
    pub(super) count: u64,
    pub(super) index_checksum: u32,
    pub(super) hash: [u8; 32],
}

impl Footer {
    pub(super) fn parse(
        bytes: &[u8; FOOTER],
        header_length: u64,
        file_length: u64,
    ) -> Result<Self, &'static str> {
        let raw = RawFooter::read_from_bytes(bytes).map_err(|_| "too few bytes")?;
        if raw.magic != super::format::END_MAGIC {
            return Err(
                "it does not end as a snapshot does: it was cut short, or bytes were appended",
            );
        }
        let (index, count) = (raw.index_offset.get(), raw.count.get());
        let end = count
            .checked_mul(ENTRY as u64)
            .and_then(|length| index.checked_add(length)?.checked_add(FOOTER as u64));
        if index < header_length || end != Some(file_length) {
            return Err(
                "its index is not where its footer says: it was cut short, or its footer is \
                 damaged",
            );
        }
        if raw.reserved.get() != 0 {
            return Err("its footer has reserved bits");
        }
        let (index_checksum, hash) = (raw.index_checksum.get(), raw.hash);
        Ok(Self {
            frames: header_length..index,
            count,
            index_checksum,
            hash,
        })
    }

    /// The bytes of the footer, with zeros in place of the hash.
    pub(super) fn encode(index_offset: u64, count: u64, index_checksum: u32) -> [u8; FOOTER] {
        let raw = RawFooter {
            index_offset: index_offset.into(),
            count: count.into(),
            index_checksum: index_checksum.into(),
            reserved: 0.into(),
            hash: [0; 32],
            magic: super::format::END_MAGIC,
        };
        let mut bytes = [0; FOOTER];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }
}
