//! A shared mapping, which other processes may write at any moment.
//!
//! No `&[u8]` or `&mut [u8]` is ever formed over it: words are accessed as atomics, bytes by copies
//! through raw pointers, or by the kernel. A copy may race with a writer of another process and
//! then yields a mixture. The caller must detect this by other means (page versions) and discard
//! the bytes, or hold the stripes.

use super::own_file::{generation, without_fork};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use nix::sys::socket::MsgFlags;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// A file mapped shared, readable and writable, until dropped.
///
/// A child made by `fork(2)` does not inherit it: a mapping keeps the open file, and with it its
/// locks, alive as a descriptor does. The child must not access it.
pub struct Mapping {
    base: NonNull<u8>,
    length: NonZeroUsize,
    generation: u64,
}

// SAFETY: the mapping is accessed only through atomics and raw copies with checked bounds, from any
// thread, and is unmapped once, by the owner.
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

    /// The length of the mapping in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length.get()
    }

    /// The word at `offset`, as an atomic.
    ///
    /// # Panics
    /// When the offset is not aligned or not inside: a bug of this program, which no peer can
    /// trigger.
    #[inline]
    #[must_use]
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(
            offset.is_multiple_of(8) && offset < self.length() && self.length() - offset >= 8,
            "word at {offset}"
        );
        // SAFETY: in bounds and aligned (the base is page-aligned) by the assertion; valid as long
        // as `self`; every process accesses these words as atomics. Only words of data are also
        // copied as bytes.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }

    /// Copies `data` to `offset`.
    #[inline]
    pub fn copy_in(&self, offset: usize, data: &[u8]) {
        self.check(offset, data.len());
        // SAFETY: in bounds by the check; `data` is private memory, so the two cannot overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(
                data.as_ptr(),
                self.base.as_ptr().add(offset),
                data.len(),
            );
        }
    }

    /// Copies from `offset` into `buffer`.
    #[inline]
    pub fn copy_out(&self, offset: usize, buffer: &mut [u8]) {
        self.check(offset, buffer.len());
        // SAFETY: in bounds by the check; `buffer` is private memory, so the two cannot overlap.
        unsafe {
            std::ptr::copy_nonoverlapping(
                self.base.as_ptr().add(offset),
                buffer.as_mut_ptr(),
                buffer.len(),
            );
        }
    }

    /// Receives from `socket`: into `head` until it is full, then into this range of the mapping,
    /// then into `tail`. Returns the number of bytes received.
    pub fn receive(
        &self,
        socket: impl AsFd,
        head: &mut [u8],
        range: Range<usize>,
        tail: &mut [u8],
        flags: MsgFlags,
    ) -> nix::Result<usize> {
        self.check(range.start, range.len());
        // SAFETY: in bounds by the check.
        let there = unsafe { self.base.as_ptr().add(range.start) };
        let part = |base: *mut u8, length| libc::iovec {
            iov_base: base.cast(),
            iov_len: length,
        };
        let mut parts = [
            part(head.as_mut_ptr(), head.len()),
            part(there, range.len()),
            part(tail.as_mut_ptr(), tail.len()),
        ];
        // SAFETY: the structure has numbers and pointers only, for which all zeros mean "none".
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = parts.as_mut_ptr();
        message.msg_iovlen = parts.len();
        // SAFETY: `message` and `parts` live through the call. The parts are `head` and `tail`,
        // borrowed for it, and bytes of the mapping, which the kernel writes as another process
        // might.
        let count =
            unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags.bits()) };
        // Not negative: `Errno::result` has turned -1 into an error.
        Errno::result(count).map(isize::unsigned_abs)
    }

    /// Copies `length` bytes inside the mapping; the two ranges may overlap.
    #[inline]
    pub fn copy_within(&self, from: usize, to: usize, length: usize) {
        self.check(from, length);
        self.check(to, length);
        // SAFETY: both in bounds by the checks; `copy` allows overlap.
        unsafe {
            std::ptr::copy(
                self.base.as_ptr().add(from),
                self.base.as_ptr().add(to),
                length,
            );
        }
    }

    /// Sets `length` bytes at `offset`.
    #[inline]
    pub fn fill(&self, offset: usize, length: usize, byte: u8) {
        self.check(offset, length);
        // SAFETY: in bounds by the check.
        unsafe { self.base.as_ptr().add(offset).write_bytes(byte, length) }
    }

    /// Prefetches the cache line at `offset` into the processor's cache. An offset that is not
    /// inside is ignored.
    #[inline]
    pub fn prefetch(&self, offset: usize) {
        if offset < self.length() {
            // SAFETY: in bounds; a prefetch has no effect that the program could see.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T0>(self.base.as_ptr().add(offset).cast());
            }
        }
    }

    #[inline]
    fn check(&self, offset: usize, length: usize) {
        assert!(
            offset <= self.length() && length <= self.length() - offset,
            "{length} bytes at {offset}"
        );
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
