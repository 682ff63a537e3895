//! `dsmctl snapshot export`: the plain bytes of the memory, or of a part of it, as they were at the
//! cut.

use super::arguments::Export;
use super::file;
use super::target::Target;
use crate::cli::arguments::Global;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::progress::Progress;
use dsm_snapshot::{FrameBuffer, SnapshotFile};
use serde_json::json;
use std::io::{self, IsTerminal};
use std::ops::Range;
use std::path::Path;

pub(super) fn run(export: &Export, global: &Global) -> Result<(), Failure> {
    let to_stdout = export.raw == Path::new("-");
    if to_stdout && global.json {
        let message = "the bytes go to standard output, where --json would mix with them: name a file, or leave it out";
        return Err(Failure::Usage(message.to_owned()));
    }
    let snapshot = file::open(&export.file, global)?;
    let (address, length) = export
        .range
        .given()
        .unwrap_or((0, snapshot.header().layout().size()));
    snapshot.check_range(address, length)?;
    let target = if to_stdout {
        Target::stdout()?
    } else {
        Target::file(&export.raw, snapshot.path())?
    };
    let on_terminal = to_stdout && io::stdout().is_terminal();
    let progress = if on_terminal {
        Progress::hidden()
    } else {
        Progress::new(Some(length))
    };
    carry(&snapshot, address..address + length, target, progress)?;
    if global.json {
        let (file, raw) = (
            snapshot.path().to_string_lossy(),
            export.raw.to_string_lossy(),
        );
        output::print_json(
            &json!({ "file": file, "address": address, "length": length, "output": raw }),
        )?;
    }
    Ok(())
}

fn carry(
    snapshot: &SnapshotFile,
    range: Range<u64>,
    mut target: Target,
    mut progress: Progress,
) -> Result<(), Failure> {
    let mut buffer =
        FrameBuffer::new().map_err(|error| Failure::input_output("decompressor", error))?;
    for extent in snapshot.extents(range.clone())? {
        let extent = extent?;
        let bytes = snapshot.read_frame(&extent, &mut buffer)?;
        let covered = extent.addresses();
        // Only the first and the last frame can cover more than the range. A frame is at most 1
        // MiB: it fits.
        let before =
            usize::try_from(range.start.saturating_sub(covered.start)).unwrap_or(bytes.len());
        let after = usize::try_from(covered.end.saturating_sub(range.end)).unwrap_or(bytes.len());
        let at = covered.start.max(range.start) - range.start;
        target.put(at, &bytes[before..bytes.len() - after], |done| {
            progress.reach(done)
        })?;
    }
    target.finish(range.end - range.start, |done| progress.reach(done))
}
