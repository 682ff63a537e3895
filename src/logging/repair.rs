//! Logs the repairs that this process makes after the death of another participant.

use super::Event;
use dsm_core::segment::{self, RepairReport};

/// Has every repair that this process makes logged, with its event id.
pub(super) fn log_repairs() {
    segment::report_repairs_to(log_repair);
}

fn log_repair(repair: &RepairReport<'_>) {
    log::warn!(MESSAGE_ID = Event::Repaired.id(), DSM_REDONE_WRITES = repair.redone_writes; "{repair}");
}
