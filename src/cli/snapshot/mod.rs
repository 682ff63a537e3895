//! `dsmctl snapshot`: takes, lists, checks, exports, compares and restores snapshots.
//!
//! Each command has a file, and so has each concept that several commands share.

mod arguments;
mod compare;
mod create;
mod cursor;
mod diff;
mod export;
mod file;
mod list;
mod report;
mod restore;
mod show;
mod target;
mod verify;

pub(super) use arguments::SnapshotCommand;

use super::arguments::GlobalOptions;
use super::failure::{CliFailure, exit};

/// Runs the command and returns the exit code.
pub(super) fn run(command: &SnapshotCommand, global: &GlobalOptions) -> Result<u8, CliFailure> {
    match command {
        SnapshotCommand::Create(create) => create::run(create, global)?,
        SnapshotCommand::List(list) => list::run(list, global)?,
        SnapshotCommand::Show(show) => show::run(show, global)?,
        SnapshotCommand::Verify(verify) => verify::run(verify, global)?,
        SnapshotCommand::Restore(restore) => restore::run(restore, global)?,
        SnapshotCommand::Export(export) => export::run(export, global)?,
        SnapshotCommand::Diff(diff) => {
            if !diff::run(diff, global)? {
                return Ok(exit::MISMATCH);
            }
        }
    }
    Ok(0)
}
