//! The slots: where the new bytes of a change wait until it is carried out.

use super::geometry::{
    LARGE_SLOT, LARGE_SLOT_TABLE, LARGE_SLOTS, SESSION_TABLE, SLOT, SLOT_TABLE, WORKERS,
};
use crate::sys::mapping::Mapping;
use crate::sys::region::Region;
use std::sync::Arc;

/// The slots of the workers, then the large ones. See the module.
pub(super) struct SlotTable(Region);

impl SlotTable {
    pub(super) fn new(mapping: &Arc<Mapping>) -> Self {
        Self(mapping.region(SLOT_TABLE..SESSION_TABLE))
    }

    /// The bytes of all slots.
    #[inline]
    pub(super) fn region(&self) -> &Region {
        &self.0
    }

    /// The offset of the slot of `worker`.
    #[inline]
    pub(super) fn own(worker: usize) -> usize {
        assert!(worker < WORKERS);
        worker * SLOT
    }

    /// The offset of large slot `index`.
    #[inline]
    pub(super) fn large(index: usize) -> usize {
        assert!(index < LARGE_SLOTS);
        LARGE_SLOT_TABLE - SLOT_TABLE + index * LARGE_SLOT
    }
}
