//! A shared mapping, which other processes may write at any moment. Its bytes are accessed through
//! [`Region`]s.

use super::own_file::{generation, without_fork};
use super::region::Region;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;

/// A file mapped shared, readable and writable, until dropped.
///
/// A child made by `fork(2)` does not inherit it: a mapping keeps the open file, and with it its
/// locks, alive as a descriptor does. The child must not access it.
pub struct Mapping {
    base: NonNull<u8>,
    length: NonZeroUsize,
    generation: u64,
}

// SAFETY: the mapping is accessed only through regions, from any thread, and is unmapped once, by
// the last owner.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method needs exclusive access.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `length` bytes of `file`, which must have that many: an access beyond the end
    /// of the file would fault.
    pub fn new(file: impl AsFd, length: NonZeroUsize) -> nix::Result<Self> {
        // A child forked between the two calls would inherit the mapping, and keep the locks of a
        // parent that is killed.
        without_fork(|| {
            let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing that Rust
            // knows of.
            let base = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, file, 0) }?;
            let mapping = Self {
                base: base.cast(),
                length,
                generation: generation(),
            };
            // SAFETY: the range is the mapping just made; the advice affects only children.
            unsafe { madvise(base, length.get(), MmapAdvise::MADV_DONTFORK) }?;
            Ok(mapping)
        })
    }

    /// The bytes of this range of the mapping, which begins at a multiple of eight.
    ///
    /// # Panics
    /// When the range is not inside, or not aligned: a bug of this program, which no peer can
    /// trigger.
    #[must_use]
    pub fn region(self: &Arc<Self>, range: Range<usize>) -> Region {
        assert!(
            range.start.is_multiple_of(8)
                && range.start <= range.end
                && range.end <= self.length.get(),
            "{range:?} of {} bytes",
            self.length
        );
        // SAFETY: in bounds by the assertion.
        let base = unsafe { self.base.add(range.start) };
        Region::new(Arc::clone(self), base, range.len())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.generation != generation() {
            // In a child this address range belongs to something else.
            return;
        }
        // SAFETY: this is the mapping that `new` made; no reference outlives `self`.
        let result = unsafe { munmap(self.base.cast(), self.length.get()) };
        debug_assert!(result.is_ok(), "munmap: {result:?}");
    }
}
