//! Reports of repairs. A participant repairs a dead one when it finds what the dead one left, at
//! any point of its work. The program decides what to do with the report, not this library.

use super::process::Process;
use std::fmt;
use std::sync::OnceLock;

/// A dead participant was repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepairReport<'a> {
    /// The name of the segment's object, as `shm_open(3)` takes it.
    pub segment: &'a str,
    /// Its index in the table of participants.
    pub participant: usize,
    /// Its process.
    pub process: Process,
    /// Writes that it had committed and that the repair redid.
    pub redone_writes: u64,
}

impl fmt::Display for RepairReport<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            segment,
            participant,
            process,
            redone_writes,
        } = self;
        write!(
            formatter,
            "repaired participant {participant} ({process}) of {segment}, which died: {redone_writes} committed writes redone"
        )
    }
}

static REPORTER: OnceLock<fn(&RepairReport<'_>)> = OnceLock::new();

/// Sets the function that receives a report of each repair that this process makes. It must not use
/// the segment. Only the first call of a process has an effect. Without one, a repair is logged as
/// a warning of the `log` crate.
pub fn report_repairs_to(reporter: fn(&RepairReport<'_>)) {
    // The first reporter stays, as documented.
    let _ = REPORTER.set(reporter);
}

pub(super) fn report(repair: &RepairReport<'_>) {
    match REPORTER.get() {
        Some(reporter) => reporter(repair),
        None => log::warn!("{repair}"),
    }
}
