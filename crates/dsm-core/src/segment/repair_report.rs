//! What a repair tells the program in which it happened. A repair is made by the first participant
//! that meets what a dead one left, at any point of its own work; what to do with the report is for
//! the program to say, not for this library.

use super::process::Process;
use std::fmt;
use std::sync::OnceLock;

/// A participant that died was repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepairReport<'a> {
    /// The name of the segment's object, as `shm_open(3)` takes it.
    pub segment: &'a str,
    /// Its index in the table of participants.
    pub participant: usize,
    /// Which process it was.
    pub process: Process,
    /// Writes that it had committed, and that were redone.
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

/// Has each repair that this process makes reported to `reporter`, which must not use the segment.
/// The first call of a process holds. Without one, a repair is a warning of the `log` crate.
pub fn report_repairs_to(reporter: fn(&RepairReport<'_>)) {
    // The first reporter stays, as the documentation says.
    let _ = REPORTER.set(reporter);
}

pub(super) fn report(repair: &RepairReport<'_>) {
    match REPORTER.get() {
        Some(reporter) => reporter(repair),
        None => log::warn!("{repair}"),
    }
}
