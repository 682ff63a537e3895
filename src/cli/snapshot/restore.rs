//! `dsmctl snapshot restore`: writes the contents of a snapshot back to the live memory.

use super::arguments::RestoreArgs;
use super::file;
use crate::cli::arguments::GlobalOptions;
use crate::cli::failure::CliFailure;
use crate::cli::progress::Progress;
use crate::cli::{context, human, output};
use dsm_config::Config;
use dsm_snapshot::{RestoreError, RestoreOptions, RestorePlan, SnapshotFile};
use serde_json::{Value, json};
use std::io::{self, IsTerminal, Write};

pub(super) fn run(restore: &RestoreArgs, global: &GlobalOptions) -> Result<(), CliFailure> {
    let config = context::load(global)?;
    let snapshot = file::open(&restore.file, global)?;
    if restore.range.given().is_some_and(|(_, length)| length == 0) {
        return Err(CliFailure::Usage(
            "the range is empty: give a LENGTH of at least 1".to_owned(),
        ));
    }
    let plan = RestorePlan::new(&config, &snapshot, restore.range.given())?;
    // Verifies the whole file before any server changes its memory.
    let mut progress = Progress::new(Some(snapshot.file_bytes()));
    snapshot
        .verify(|done, _| progress.reach(done))
        .map_err(RestoreError::from)?;
    drop(progress);
    if !restore.yes && io::stdin().is_terminal() && io::stderr().is_terminal() {
        confirm(&config, &snapshot, &plan)?;
    }
    let mut progress = Progress::new(Some(plan.addresses.end - plan.addresses.start));
    let options = RestoreOptions {
        force: restore.force,
    };
    let restored = dsm_snapshot::restore(&config, &snapshot, &plan, options, &mut |done, _| {
        progress.reach(done);
    })?;
    drop(progress);
    let (address, length) = (
        plan.addresses.start,
        plan.addresses.end - plan.addresses.start,
    );
    if global.json {
        let server = |(index, incarnation): &(usize, u64)| -> Value {
            json!({ "index": index, "incarnation": format!("{incarnation:016x}") })
        };
        return output::print_json(&json!({
            "file": snapshot.path().to_string_lossy(),
            "address": address,
            "length": length,
            "raw_bytes": restored.bytes,
            "servers": restored.incarnations.iter().map(server).collect::<Vec<_>>(),
        }));
    }
    output::print(&format!(
        "restored addresses {address} to {} as they were at {}: {} that are not zeros, on {}\n",
        address + length.saturating_sub(1),
        humantime::format_rfc3339_seconds(file::cut_time(snapshot.header())),
        human::bytes(restored.bytes),
        human::count(restored.incarnations.len() as u64, "server"),
    ))
}

/// Asks for confirmation on the terminal.
fn confirm(config: &Config, snapshot: &SnapshotFile, plan: &RestorePlan) -> Result<(), CliFailure> {
    let failed = |error| CliFailure::input_output("the terminal", error);
    let mut terminal = io::stderr();
    write!(
        terminal,
        "This replaces {} of the memory {:?}, from address {} on, by the contents at {}. \
         All later writes there are lost.\nContinue? [y/N] ",
        human::bytes(plan.addresses.end - plan.addresses.start),
        config.layout.name(),
        plan.addresses.start,
        humantime::format_rfc3339_seconds(file::cut_time(snapshot.header())),
    )
    .map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    if ["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()) {
        Ok(())
    } else {
        Err(CliFailure::Declined)
    }
}
