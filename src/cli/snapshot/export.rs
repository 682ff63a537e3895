//! `dsmctl snapshot export`: writes the contents of the memory, or of a range of it, as they were
//! at the cut.

use super::arguments::ExportArgs;
use super::file;
use super::target::ExportTarget;
use crate::cli::arguments::GlobalOptions;
use crate::cli::failure::CliFailure;
use crate::cli::output;
use crate::cli::progress::Progress;
use dsm_snapshot::{FrameBuffer, SnapshotFile};
use serde_json::json;
use std::io::{self, IsTerminal};
use std::ops::Range;
use std::path::Path;

pub(super) fn run(export: &ExportArgs, global: &GlobalOptions) -> Result<(), CliFailure> {
    let to_stdout = export.raw == Path::new("-");
    if to_stdout && global.json {
        let message = "--json cannot be used while the bytes go to standard output: \
                       name a file, or leave out --json";
        return Err(CliFailure::Usage(message.to_owned()));
    }
    let snapshot = file::open(&export.file, global)?;
    let (address, length) = export
        .range
        .given()
        .unwrap_or((0, snapshot.header().layout().size()));
    snapshot.check_range(address, length)?;
    let target = if to_stdout {
        ExportTarget::stdout()?
    } else {
        ExportTarget::file(&export.raw, snapshot.path())?
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

/// Writes the range to the target, frame by frame.
fn carry(
    snapshot: &SnapshotFile,
    range: Range<u64>,
    mut target: ExportTarget,
    mut progress: Progress,
) -> Result<(), CliFailure> {
    let mut buffer = FrameBuffer::new()
        .map_err(|error| CliFailure::input_output("the zstd decompressor", error))?;
    for extent in snapshot.extents(range.clone())? {
        let extent = extent?;
        let bytes = snapshot.read_frame(&extent, &mut buffer)?;
        let covered = extent.addresses();
        // The first and the last frame may extend beyond the range. The numbers fit a usize, as a
        // frame has at most 1 MiB.
        let before =
            usize::try_from(range.start.saturating_sub(covered.start)).unwrap_or(bytes.len());
        let after = usize::try_from(covered.end.saturating_sub(range.end)).unwrap_or(bytes.len());
        let at = covered.start.max(range.start) - range.start;
        target.put(at, &bytes[before..bytes.len() - after], |done| {
            progress.reach(done);
        })?;
    }
    target.finish(range.end - range.start, |done| progress.reach(done))
}
