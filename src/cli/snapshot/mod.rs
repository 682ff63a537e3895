//! `dsmctl snapshot`: the files that dsm-snapshot writes, looked at, checked, taken apart and
//! compared.
//!
//! One file for each command, and one for each thing that several need.

mod arguments;
mod compare;
mod create;
mod diff;
mod export;
mod file;
mod list;
mod report;
mod restore;
mod show;
mod target;
mod verify;
mod walk;

pub(super) use arguments::Snapshot;

use super::arguments::Global;
use super::failure::{Failure, exit};

/// Runs one of the commands, and returns the exit code.
pub(super) fn run(command: &Snapshot, global: &Global) -> Result<u8, Failure> {
    match command {
        Snapshot::Create(create) => create::run(create, global)?,
        Snapshot::List(list) => list::run(list, global)?,
        Snapshot::Show(show) => show::run(show, global)?,
        Snapshot::Verify(verify) => verify::run(verify, global)?,
        Snapshot::Restore(restore) => restore::run(restore, global)?,
        Snapshot::Export(export) => export::run(export, global)?,
        Snapshot::Diff(diff) => {
            if !diff::run(diff, global)? {
                return Ok(exit::MISMATCH);
            }
        }
    }
    Ok(0)
}
