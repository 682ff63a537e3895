//! `dsmctl snapshot create`: takes a snapshot now.

use super::arguments::Create;
use crate::cli::arguments::Global;
use crate::cli::failure::Failure;

pub(super) fn run(_create: &Create, _global: &Global) -> Result<(), Failure> {
    Err(Failure::Usage("this release cannot take snapshots yet".to_owned()))
}
