//! The segment: the k bytes that one server shares, as an object in POSIX shared memory that
//! several processes use.
//!
//! A writer takes the stripes of the pages it touches, commits an intent, carries the intent out
//! and releases the stripes. A reader takes no lock: it checks the versions of the pages before and
//! after its copy. Any participant may be killed at any instruction: the others learn of its death
//! from the kernel's file locks, and finish or drop what it was doing.

mod attachment;
mod change;
mod copy_area;
pub mod crash;
mod create;
mod critical;
mod critical_section;
mod cut;
mod deadline;
mod error;
mod gate;
mod geometry;
mod intent;
mod kept_names;
mod local;
mod lock;
mod lock_table;
#[cfg(test)]
mod models;
mod names;
mod open;
mod orphan;
mod page_table;
mod page_version;
mod participant;
mod participant_table;
mod pause;
mod process;
mod read;
mod reloads;
mod repair_report;
mod restoration;
mod session;
mod slot_table;
mod snapshot_lock;
mod superblock;
#[cfg(test)]
mod test_memory;
mod upgrade;
mod worker;

pub use create::SERVER_MEMORY;
pub use cut::{CUT_RUN, Cut, CutEnded, CutPages, Page};
pub use deadline::Deadline;
pub use error::SegmentError;
pub use gate::{AccessError, Awaited};
pub use geometry::SLOT;
pub use geometry::{CLIENT_WORKERS, SESSIONS, WORKERS, overhead};
pub use intent::RequestId;
pub use kept_names::NameCheck;
pub use local::{generation, watch_forks};
pub use names::{FileKind, FileOwner};
pub use open::{Found, Opened, Start};
pub use process::Process;
pub use reloads::{Reloads, ServedSegment};
pub use repair_report::{RepairReport, report_repairs_to};
pub use restoration::Restoration;
pub use session::SessionEntry;
pub use snapshot_lock::{FreezeError, Frozen, Leftover, SNAPSHOT_LOCK_TIMEOUT, SnapshotLock};
pub use superblock::FORMAT;
pub use worker::Worker;

/// Where the operating system keeps shared-memory objects and semaphores, see `shm_overview(7)`.
pub const SHARED_MEMORY_DIRECTORY: &str = crate::sys::semaphore::DIRECTORY;

use attachment::SegmentAttachment;
use intent::{IntentField, LocalCounter};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use superblock::Field;

/// A segment that this process participates in. Clones share the participation.
#[derive(Clone)]
pub struct Segment {
    attachment: Arc<SegmentAttachment>,
}

impl Segment {
    /// The random id of the contents; never zero.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.attachment.tables.superblock.incarnation()
    }

    /// Bytes attachment.
    #[must_use]
    pub fn share_size(&self) -> u64 {
        self.attachment.geometry.k as u64
    }

    /// The name of the shared-memory object, as `shm_open(3)` takes it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.attachment.name
    }

    /// The number of dead participants that were repaired since the segment was made, and the
    /// number of their committed writes that were redone.
    #[must_use]
    pub fn repairs(&self) -> (u64, u64) {
        let word = |field: Field| {
            self.attachment
                .tables
                .superblock
                .word(field)
                .load(Ordering::Relaxed)
        };
        (word(Field::Repaired), word(Field::RedoneWrites))
    }

    /// The number of participants that are alive now, this process included.
    #[must_use]
    pub fn participants(&self) -> usize {
        self.attachment.participants_alive()
    }

    /// Whether the object is still the one that its name refers to, and is in use.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.attachment.tables.superblock.is_ready()
    }

    /// A number that changes when a participant changes the memory: a hash of the last intent of
    /// every worker and of the counters of local clients. Two equal changes by the same worker,
    /// without a session and not by a local client, give the same number.
    #[must_use]
    pub fn activity(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        for worker in 0..WORKERS {
            for field in IntentField::RECORD {
                hasher.update(
                    &self
                        .attachment
                        .tables
                        .intents
                        .word(worker, field)
                        .load(Ordering::Relaxed)
                        .to_le_bytes(),
                );
            }
            for counter in LocalCounter::CHANGES {
                hasher.update(
                    &self
                        .attachment
                        .tables
                        .intents
                        .counter(worker, counter)
                        .load(Ordering::Relaxed)
                        .to_le_bytes(),
                );
            }
        }
        hasher
            .finalize()
            .as_bytes()
            .first_chunk()
            .map_or(0, |number| u64::from_le_bytes(*number))
    }

    /// Leaves the table of participants, so that the others do not repair this process as a dead
    /// one. No worker of it may be inside a change. The others release its workers once the process
    /// has ended. Dropping the last clone does the same.
    pub fn leave(&self) {
        self.attachment.leave();
    }

    /// Returns a free worker: the right of one thread at a time to read and write the segment.
    ///
    /// # Errors
    /// [`SegmentError::TooManyWorkers`].
    pub fn worker(&self) -> Result<Worker, SegmentError> {
        let take = |index: &usize| {
            let attachment = &self.attachment;
            attachment
                .tables
                .intents
                .take(*index, attachment.participant)
        };
        let mut numbers = self.attachment.role.workers();
        let found = numbers.clone().find(take).or_else(|| {
            // The workers of a participant that died idle become free once it is repaired.
            self.attachment.repair_all_dead();
            numbers.find(take)
        });
        match found {
            Some(index) => {
                self.attachment.repair_adopted(index);
                Ok(Worker::new(Arc::clone(&self.attachment), index))
            }
            None => Err(SegmentError::TooManyWorkers {
                name: self.attachment.name.clone(),
            }),
        }
    }
}
