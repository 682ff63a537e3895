//! The table of participants: the processes that have the segment mapped, for people who want to
//! stop them, and the processes that repair dead ones.

use super::geometry::{CACHE_LINE, PARTICIPANT_TABLE, PARTICIPANTS};
use super::process::{NAMESPACE, Process, REPAIRER, own_namespace};
use crate::sys::mapping::Mapping;
use crate::sys::region::Region;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
pub(super) struct ParticipantTable(Region);

impl ParticipantTable {
    pub(super) fn new(mapping: &Arc<Mapping>) -> Self {
        let end = PARTICIPANT_TABLE + PARTICIPANTS * CACHE_LINE;
        Self(mapping.region(PARTICIPANT_TABLE..end))
    }

    /// The pid of a participant; zero for an entry that is free.
    fn pid(&self, index: usize) -> &AtomicU64 {
        self.0.word(index * CACHE_LINE)
    }

    /// Whether a process has entered the table as participant `index` and not left it.
    pub(super) fn is_entered(&self, index: usize) -> bool {
        self.pid(index).load(Ordering::Relaxed) != 0
    }

    /// Records this process as participant `index`.
    pub(super) fn enter(&self, index: usize) {
        self.store(index * CACHE_LINE);
    }

    /// Frees the entry. Returns whether a process had entered it.
    pub(super) fn leave(&self, index: usize) -> bool {
        self.pid(index).swap(0, Ordering::Relaxed) != 0
    }

    /// The process of participant `index`.
    pub(super) fn process(&self, index: usize) -> Process {
        self.load(index * CACHE_LINE)
    }

    /// The process that acts for participant `index`: its repairer if there is one, else itself.
    pub(super) fn acting_for(&self, index: usize) -> Process {
        match self.load(index * CACHE_LINE + REPAIRER) {
            Process::Unknown => self.process(index),
            repairer => repairer,
        }
    }

    /// Records this process as the repairer of participant `index`. If it dies, the next repairer
    /// overwrites this.
    pub(super) fn enter_repairer(&self, index: usize) {
        self.store(index * CACHE_LINE + REPAIRER);
    }

    /// Removes the record of the repairer of participant `index`.
    pub(super) fn leave_repairer(&self, index: usize) {
        self.0
            .word(index * CACHE_LINE + REPAIRER)
            .store(0, Ordering::Release);
    }

    fn load(&self, pair: usize) -> Process {
        let word = |at| self.0.word(pair + at).load(Ordering::Relaxed);
        Process::new(word(0), word(NAMESPACE), own_namespace())
    }

    fn store(&self, pair: usize) {
        self.0
            .word(pair + NAMESPACE)
            .store(own_namespace(), Ordering::Relaxed);
        self.0
            .word(pair)
            .store(u64::from(std::process::id()), Ordering::Release);
    }
}
