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

pub(super) use arguments::SnapshotSubcommand;

use super::arguments::GlobalOptions;
use super::failure::{CliFailure, exit};

/// Runs the command and returns the exit code.
pub(super) fn run(command: &SnapshotSubcommand, global: &GlobalOptions) -> Result<u8, CliFailure> {
    match command {
        SnapshotSubcommand::Create(create) => create::run(create, global)?,
        SnapshotSubcommand::List(list) => list::run(list, global)?,
        SnapshotSubcommand::Show(show) => show::run(show, global)?,
        SnapshotSubcommand::Verify(verify) => verify::run(verify, global)?,
        SnapshotSubcommand::Restore(restore) => restore::run(restore, global)?,
        SnapshotSubcommand::Export(export) => export::run(export, global)?,
        SnapshotSubcommand::Diff(diff) => {
            if !diff::run(diff, global)? {
                return Ok(exit::MISMATCH);
            }
        }
    }
    Ok(0)
}
