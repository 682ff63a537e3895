//! What all workers of one participant have in common.

use super::geometry::Geometry;
use crate::sys::mapping::Mapping;
use crate::sys::semaphore::Semaphore;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

/// A mapped segment, as one participant has it.
pub(super) struct Shared {
    /// The object's name, with its slash.
    pub(super) name: String,
    /// The open object; its OFD lock on the participant's byte says that this process lives.
    pub(super) file: OwnedFd,
    /// Pages that writers have saved for a cut.
    pub(super) copy_area: OwnedFd,
    pub(super) mapping: Mapping,
    pub(super) geometry: Geometry,
    /// One for each lock.
    pub(super) semaphores: Vec<Semaphore>,
    /// Own place in the table of participants.
    pub(super) participant: usize,
    /// Held by the thread of this process that repairs.
    pub(super) repairing: Mutex<()>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.leave();
    }
}
