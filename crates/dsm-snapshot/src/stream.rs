//! The memory in a snapshot, chunk by chunk: what is not zeros, in ascending order.

use super::error::ReadError;
use super::reader::{FrameBuffer, SnapshotFile, Source};
use std::ops::Range;

/// Calls `visit` with the address and the bytes of each part of `range` that a frame covers; the
/// rest is zeros. A part is never longer than a frame. The range may go past the memory that the
/// snapshot shows, which has nothing there.
///
/// # Errors
/// When a part was on a server that is missing, or a frame is damaged; and what `visit` returns.
pub fn each_part<S: Source, E: From<ReadError>>(
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
