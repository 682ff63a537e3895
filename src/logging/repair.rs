//! The line about a participant that died, and was repaired by this process.

use super::Event;
use dsm_core::segment::{self, RepairReport};

/// Has every repair that this process makes logged, with its event.
pub(super) fn log_repairs() {
    segment::report_repairs_to(log_repair);
}

fn log_repair(repair: &RepairReport<'_>) {
    log::warn!(MESSAGE_ID = Event::Repaired.id(), DSM_REDONE_WRITES = repair.redone_writes; "{repair}");
}
