//! `dsmctl snapshot restore`: puts the bytes of a snapshot back into the live memory.

use super::arguments::Restore;
use crate::cli::arguments::Global;
use crate::cli::failure::Failure;

pub(super) fn run(_restore: &Restore, _global: &Global) -> Result<(), Failure> {
    Err(Failure::Usage("this release cannot restore snapshots yet".to_owned()))
}
