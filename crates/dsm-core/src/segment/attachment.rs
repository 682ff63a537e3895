//! The attachment of a process to a segment: the tables of the object, and what the process itself
//! needs to use them. All workers of the process share it.

use super::geometry::{Geometry, WORKERS};
use super::intent::IntentTable;
use super::lock_table::LockTable;
use super::page_table::PageTable;
use super::participant::Role;
use super::participant_table::ParticipantTable;
use super::session::SessionRecords;
use super::slot_table::SlotTable;
use super::superblock::Superblock;
use crate::sys::clock::MachineClock;
use crate::sys::mapping::Mapping;
use crate::sys::own_file::OwnFile;
use crate::sys::region::Region;
use crate::sys::semaphore::Semaphore;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

/// The tables of a segment, in the order of the object. Each accesses its own bytes only.
pub(super) struct Tables {
    pub(super) superblock: Superblock,
    pub(super) participants: ParticipantTable,
    pub(super) locks: LockTable,
    pub(super) intents: IntentTable,
    pub(super) slots: SlotTable,
    pub(super) sessions: SessionRecords,
    pub(super) pages: PageTable,
    /// The k bytes that are shared.
    pub(super) data: Region,
}

impl Tables {
    pub(super) fn new(mapping: &Arc<Mapping>, geometry: Geometry) -> Self {
        Self {
            superblock: Superblock::new(mapping),
            participants: ParticipantTable::new(mapping),
            locks: LockTable::new(mapping),
            intents: IntentTable::new(mapping),
            slots: SlotTable::new(mapping),
            sessions: SessionRecords::new(mapping),
            pages: PageTable::new(mapping, geometry),
            data: mapping.region(geometry.data()),
        }
    }
}

/// A segment as one participant has it.
pub(super) struct SegmentAttachment {
    /// The name of the shared-memory object, with its slash.
    pub(super) name: String,
    /// The open object. Its OFD lock on the participant's byte shows that this process lives.
    pub(super) file: OwnFile,
    /// The file of the pages that writers have saved for a cut.
    pub(super) copy_area: OwnFile,
    pub(super) geometry: Geometry,
    pub(super) tables: Tables,
    /// One semaphore for each lock.
    pub(super) semaphores: Vec<Semaphore>,
    /// The index of this participant.
    pub(super) participant: usize,
    /// The role of this participant.
    pub(super) role: Role,
    /// The clock by which a freeze expires.
    pub(super) clock: MachineClock,
    /// Held by the thread of this process that repairs a participant.
    pub(super) repairing: Mutex<()>,
    /// For each worker, one more than its progress counter when a thread of this process last timed
    /// out on it; zero for none.
    pub(super) stalls: [AtomicU64; WORKERS],
    /// For each worker of this process, its [`super::Deadline`]. It is here, and not an argument of
    /// each lock, because only a worker that waits reads it.
    pub(super) deadlines: [AtomicU64; WORKERS],
}

impl SegmentAttachment {
    /// Whether this attachment belongs to the parent of this process: then this process may neither
    /// use nor end it.
    #[inline]
    pub(super) fn is_inherited(&self) -> bool {
        self.file.is_inherited()
    }
}

impl Drop for SegmentAttachment {
    fn drop(&mut self) {
        if !self.is_inherited() {
            self.leave();
        }
    }
}
