//! What all workers of one participant have in common.

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
    /// The object's name, with its slash.
    pub(super) name: String,
    /// The open object; its OFD lock on the participant's byte says that this process lives.
    pub(super) file: OwnFile,
    /// Pages that writers have saved for a cut.
    pub(super) copy_area: OwnFile,
    pub(super) mapping: Mapping,
    pub(super) geometry: Geometry,
    /// One for each lock.
    pub(super) semaphores: Vec<Semaphore>,
    /// Own place in the table of participants.
    pub(super) participant: usize,
    /// What this participant is there for.
    pub(super) role: Role,
    /// By which a freeze ends.
    pub(super) clock: MachineClock,
    /// Held by the thread of this process that repairs.
    pub(super) repairing: Mutex<()>,
    /// For each worker, one more than the progress that it had counted when threads of this process
    /// last waited for it in vain; zero for none.
    pub(super) stalls: [AtomicU64; WORKERS],
    /// For each worker of this process, its [`super::Deadline`]. Here, and not in what each lock is
    /// told, because only a worker that waits looks at it.
    pub(super) deadlines: [AtomicU64; WORKERS],
}

impl Shared {
    /// Whether this is the participation of the parent of this process, which nobody here may use
    /// or end.
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
