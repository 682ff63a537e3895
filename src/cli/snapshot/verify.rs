//! `dsmctl snapshot verify`: reads each file completely and checks that it is undamaged.

use super::arguments::VerifyArgs;
use super::file;
use crate::cli::arguments::GlobalOptions;
use crate::cli::failure::CliFailure;
use crate::cli::human;
use crate::cli::output;
use crate::cli::progress::Progress;
use dsm_snapshot::{ReadError, SnapshotFile, Summary};
use serde_json::{Value, json};
use std::path::Path;

pub(super) fn run(verify: &VerifyArgs, global: &GlobalOptions) -> Result<(), CliFailure> {
    let asked = verify.file.len();
    let mut failures = Vec::new();
    let mut rows = Vec::new();
    for path in &verify.file {
        let outcome = check(path, global);
        if global.json {
            rows.push(json_row(path, &outcome));
        }
        match outcome {
            Ok((snapshot, summary)) if !global.json => output::print(&line(&snapshot, &summary))?,
            Ok(_) => {}
            Err(failure) => {
                // The failure of a single file is the failure of the command, which prints it.
                if asked > 1 {
                    output::print_error(&failure);
                }
                failures.push(failure);
            }
        }
    }
    if global.json {
        output::print_json(&rows.into())?;
    }
    let (bad, code) = (
        failures.len(),
        failures.iter().map(CliFailure::code).max().unwrap_or(0),
    );
    match failures.pop() {
        None => Ok(()),
        Some(failure) if asked == 1 => Err(failure),
        Some(_) => Err(CliFailure::Snapshots { bad, asked, code }),
    }
}

fn check(path: &Path, global: &GlobalOptions) -> Result<(SnapshotFile, Summary), CliFailure> {
    let snapshot = file::open(path, global)?;
    let mut progress = Progress::new(Some(snapshot.file_bytes()));
    let summary = snapshot.verify(|done, _| progress.reach(done))?;
    Ok((snapshot, summary))
}

fn line(snapshot: &SnapshotFile, summary: &Summary) -> String {
    let header = snapshot.header();
    let partial = if header.is_partial() {
        format!(
            "partial, {} of {} servers, ",
            file::present(header),
            header.layout().server_count()
        )
    } else {
        String::new()
    };
    format!(
        "{}: ok ({partial}{}, {} of memory in {}, a file of {})\n",
        snapshot.path().display(),
        human::count(summary.frames, "frame"),
        human::bytes(summary.raw_bytes),
        human::bytes(summary.stored_bytes),
        human::bytes(summary.file_bytes)
    )
}

fn json_row(path: &Path, outcome: &Result<(SnapshotFile, Summary), CliFailure>) -> Value {
    match outcome {
        Ok((snapshot, summary)) => json!({
            "file": snapshot.path().to_string_lossy(),
            "ok": true,
            "partial": snapshot.header().is_partial(),
            "frames": summary.frames,
            "raw_bytes": summary.raw_bytes,
            "stored_bytes": summary.stored_bytes,
            "bytes": summary.file_bytes,
        }),
        Err(failure) => {
            let mut row = json!({ "file": path.to_string_lossy(), "ok": false, "error": failure.to_string() });
            if let CliFailure::Snapshot(ReadError::Frame {
                offset, addresses, ..
            }) = failure
            {
                row["offset"] = (*offset).into();
                row["address"] = addresses.start.into();
                row["length"] = (addresses.end - addresses.start).into();
            }
            row
        }
    }
}
