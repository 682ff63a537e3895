//! The bytes of a snapshot that frames cover, part by part in ascending order. All other bytes are
//! zeros.

use super::error::ReadError;
use super::reader::{FrameBuffer, SnapshotFile, SnapshotSource};
use std::ops::Range;

/// Calls `visit` with the address and the bytes of each part of `range` that a frame covers; all
/// other bytes are zeros. A part is never longer than a frame. The range may reach past the end of
/// the memory in the snapshot, where there is no part.
///
/// # Errors
/// When the snapshot lacks a server that held a part of the range, or a frame is damaged; and the
/// errors of `visit`.
pub fn for_each_part<S: SnapshotSource, E: From<ReadError>>(
    file: &SnapshotFile<S>,
    range: &Range<u64>,
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let layout = file.header().layout();
    let range = range.start..range.end.min(layout.size());
    if range.is_empty() {
        return Ok(());
    }
    file.check_range(range.start, range.end - range.start)?;
    let mut buffer =
        FrameBuffer::new().map_err(ReadError::system("no memory to decompress", file.path()))?;
    for extent in file.extents(range.clone())? {
        let extent = extent?;
        let bytes = file.read_frame(&extent, &mut buffer)?;
        let covered = extent.addresses();
        let (begin, end) = (covered.start.max(range.start), covered.end.min(range.end));
        // Offsets into a frame, which is a slice.
        #[allow(clippy::cast_possible_truncation)]
        let part = (begin - covered.start) as usize..(end - covered.start) as usize;
        visit(begin, &bytes[part])?;
    }
    Ok(())
}
