//! The page table: for each page its version, and the word that says where the page is as of the
//! latest cut.

use super::geometry::{Geometry, PAGE_ENTRY};
use crate::sys::mapping::Mapping;
use crate::sys::region::Region;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The offset of the cut word from the version.
const CUT_WORD: usize = 8;

/// See the module.
pub(super) struct PageTable(Region);

impl PageTable {
    pub(super) fn new(mapping: &Arc<Mapping>, geometry: Geometry) -> Self {
        Self(mapping.region(geometry.page_table()))
    }

    /// The version of a page.
    #[inline]
    pub(super) fn version(&self, page: usize) -> &AtomicU64 {
        self.0.word(page * PAGE_ENTRY)
    }

    /// Where a page is as of the latest cut, see [`super::cut`].
    #[inline]
    pub(super) fn cut_word(&self, page: usize) -> &AtomicU64 {
        self.0.word(page * PAGE_ENTRY + CUT_WORD)
    }

    /// Prefetches the entry of a page, which may be outside.
    #[inline]
    pub(super) fn prefetch(&self, page: usize) {
        self.0.prefetch(page * PAGE_ENTRY);
    }
}
