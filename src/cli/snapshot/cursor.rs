//! Reads a snapshot in ascending order, and finds the next address that is not in a range of zeros.

use crate::cli::failure::CliFailure;
use dsm_snapshot::{FrameBuffer, FrameExtent, FrameExtents, SnapshotFile};
use std::iter::Peekable;
use std::ops::Range;

/// Reads a range of a snapshot once. Keeps the last frame, in which the next read often starts.
pub(super) struct SnapshotCursor<'a> {
    file: &'a SnapshotFile,
    extents: Peekable<FrameExtents<'a>>,
    buffer: FrameBuffer,
    frame: Range<u64>,
    bytes: Vec<u8>,
}

impl<'a> SnapshotCursor<'a> {
    pub(super) fn new(file: &'a SnapshotFile, addresses: Range<u64>) -> Result<Self, CliFailure> {
        let extents = file.extents(addresses)?.peekable();
        let buffer = FrameBuffer::new()
            .map_err(|error| CliFailure::input_output("the zstd decompressor", error))?;
        Ok(Self {
            file,
            extents,
            buffer,
            frame: 0..0,
            bytes: Vec::new(),
        })
    }

    /// The first address, not below `from`, that a frame covers; all bytes between are zeros.
    pub(super) fn next_covered(&mut self, from: u64) -> Result<Option<u64>, CliFailure> {
        if from < self.frame.end {
            return Ok(Some(from.max(self.frame.start)));
        }
        match self.extents.next_if(Result::is_err) {
            Some(failed) => Ok(failed.map(|_| None)?),
            None => Ok(self
                .extents
                .peek()
                .and_then(|next| Some(next.as_ref().ok()?.addresses().start.max(from)))),
        }
    }

    /// Fills `buffer` with the bytes from `address` on, which must not be below the end of the last
    /// read.
    pub(super) fn fill(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), CliFailure> {
        let wanted = address..address + buffer.len() as u64;
        buffer.fill(0);
        loop {
            let (begin, end) = (
                self.frame.start.max(wanted.start),
                self.frame.end.min(wanted.end),
            );
            if begin < end {
                let offset = |address: u64, start: u64| {
                    usize::try_from(address - start).unwrap_or(usize::MAX)
                };
                let from = offset(begin, self.frame.start)..offset(end, self.frame.start);
                buffer[offset(begin, wanted.start)..offset(end, wanted.start)]
                    .copy_from_slice(&self.bytes[from]);
            }
            let is_wanted = |extent: &FrameExtent| extent.addresses().start < wanted.end;
            let next = self
                .extents
                .next_if(|next| next.as_ref().map_or(true, is_wanted));
            let Some(extent) = next.transpose()? else {
                return Ok(());
            };
            self.bytes.clear();
            self.bytes
                .extend_from_slice(self.file.read_frame(&extent, &mut self.buffer)?);
            self.frame = extent.addresses();
        }
    }
}
