//! The state that all workers of one participant share.

use super::geometry::{Geometry, WORKERS};
use super::participant::Role;
use crate::sys::clock::MachineClock;
use crate::sys::mapping::Mapping;
use crate::sys::own_file::OwnFile;
use crate::sys::semaphore::Semaphore;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

/// A mapped segment, as one participant has it.
pub(super) struct Shared {
    /// The name of the shared-memory object, with its slash.
    pub(super) name: String,
    /// The open object. Its OFD lock on the participant's byte shows that this process lives.
    pub(super) file: OwnFile,
    /// The file of the pages that writers have saved for a cut.
    pub(super) copy_area: OwnFile,
    pub(super) mapping: Mapping,
    pub(super) geometry: Geometry,
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

impl Shared {
    /// Whether this participation belongs to the parent of this process: then this process may
    /// neither use nor end it.
    #[inline]
    pub(super) fn is_inherited(&self) -> bool {
        self.file.is_inherited()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !self.is_inherited() {
            self.leave();
        }
    }
}
