//! A part of a shared mapping, with its bounds.
//!
//! No `&[u8]` or `&mut [u8]` is ever formed over it: words are accessed as atomics, bytes by copies
//! through raw pointers, or by the kernel. A copy may race with a writer of another process and
//! then yields a mixture. The caller must detect this by other means (page versions) and discard
//! the bytes, or hold the stripes.

use super::mapping::Mapping;
use nix::errno::Errno;
use nix::sys::socket::MsgFlags;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Some bytes of a [`Mapping`]. Offsets count from its first byte, and no access leaves it.
///
pub struct Region {
    base: NonNull<u8>,
    length: usize,
    /// Keeps the bytes mapped.
    _mapping: Arc<Mapping>,
}

// SAFETY: the bytes are accessed only through atomics and raw copies with checked bounds, from any
// thread, and stay mapped as long as the region.
unsafe impl Send for Region {}
// SAFETY: as above; no method needs exclusive access.
unsafe impl Sync for Region {}

impl Region {
    /// `base` is the first of `length` bytes of the mapping.
    pub(super) fn new(mapping: Arc<Mapping>, base: NonNull<u8>, length: usize) -> Self {
        Self {
            base,
            length,
            _mapping: mapping,
        }
    }

    /// The number of bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// The word at `offset`, as an atomic.
    ///
    /// # Panics
    /// When the offset is not a multiple of eight or not inside: a bug of this program, which no
    /// peer can trigger. So do the other methods.
    #[inline]
    #[must_use]
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(
            offset.is_multiple_of(8) && offset < self.length && self.length - offset >= 8,
            "word at {offset} of {}",
            self.length
        );
        // SAFETY: in bounds by the assertion, and aligned: all regions begin at a multiple of eight
        // of a mapping, whose base is page-aligned; valid as long as `self`; every process accesses
        // these words as atomics. Only words of data are also copied as bytes.
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

    /// Copies `length` bytes from `offset` to `to` of another region, which may overlap this one.
    #[inline]
    pub fn copy_to(&self, offset: usize, target: &Self, to: usize, length: usize) {
        self.check(offset, length);
        target.check(to, length);
        // SAFETY: both in bounds by the checks; `copy` allows overlap.
        unsafe {
            std::ptr::copy(
                self.base.as_ptr().add(offset),
                target.base.as_ptr().add(to),
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

    /// Receives from `socket`: into `head` until it is full, then into this range, then into
    /// `tail`. Returns the number of bytes received.
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

    /// Prefetches the cache line at `offset` into the processor's cache. An offset that is not
    /// inside is ignored.
    #[inline]
    pub fn prefetch(&self, offset: usize) {
        if offset < self.length {
            // SAFETY: in bounds; a prefetch has no effect that the program could see.
            #[cfg(target_arch = "x86_64")]
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T0>(self.base.as_ptr().add(offset).cast());
            }
        }
    }

    /// Wakes every process that waits in `futex(2)` for a change of the low half of the word at
    /// `offset`.
    pub fn wake_waiters(&self, offset: usize) {
        let word = self.word(offset).as_ptr().cast::<u32>();
        // SAFETY: FUTEX_WAKE takes the address, here the low half of a word of the mapping, as a
        // key, and accesses no memory.
        let _woken = unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, i32::MAX) };
    }

    /// Waits in `futex(2)` until [`Self::wake_waiters`] wakes this thread, for at most `limit`.
    /// Returns `false` at once when the low half of the word at `offset` is not that of `value`, and
    /// when the time has passed.
    #[must_use]
    pub fn wait(&self, offset: usize, value: u64, limit: Duration) -> bool {
        let word = self.word(offset).as_ptr().cast::<u32>();
        let limit = libc::timespec {
            tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        // The low half is what the kernel compares.
        #[allow(clippy::cast_possible_truncation)]
        let value = value as u32;
        // SAFETY: FUTEX_WAIT reads the low half of a word of the mapping, and `limit`, which lives
        // through the call.
        let answer = unsafe {
            libc::syscall(
                libc::SYS_futex,
                word,
                libc::FUTEX_WAIT,
                value,
                &raw const limit,
            )
        };
        answer == 0
    }

    #[inline]
    fn check(&self, offset: usize, length: usize) {
        assert!(
            offset <= self.length && length <= self.length - offset,
            "{length} bytes at {offset} of {}",
            self.length
        );
    }
}
