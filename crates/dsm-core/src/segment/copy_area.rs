//! The copy area: an object beside the segment that holds the pages that writers have saved for a
//! cut.
//!
//! It is written with `pwrite(2)` and not through a mapping. The file grows as needed, and a full
//! /dev/shm is an error and not a SIGBUS. If the area is emptied under a late reader, that reader
//! gets a short read.
//!
//! In the accounting of control groups its memory belongs to the agent that takes the snapshot: the
//! agent allocates ahead of the writers. A local client saves pages only in allocated memory, since
//! the kernel would kill a client whose own memory limit is small. A server, whose memory it is,
//! also saves beyond.

use super::attachment::SegmentAttachment;
use super::cut::{Cut, Page};
use super::deadline::Deadline;
use super::gate::Gate;
use super::geometry::page_size;
use super::participant::Role;
use super::superblock::Field;
use super::{Segment, SegmentError};
use crate::sys::file_size;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::fstat;
use nix::sys::uio::{pread, pwrite};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The byte that the holder of the snapshot lock locks: beyond the last page that the area can
/// have.
pub(super) const SNAPSHOT_LOCK_BYTE: i64 = i64::MAX - 1;

/// The most pages of the area: their numbers share half a word with two other values.
const MAX_COPIES: u64 = u32::MAX as u64 - 2;

/// The most pages that are allocated ahead of the last one taken: as many as two fast writers save
/// in some milliseconds.
const MAX_AHEAD: u64 = (8 << 20) / page_size() as u64;

/// Pages that are allocated ahead for each page taken, up to [`MAX_AHEAD`]: a cut during which
/// writers save few pages costs little.
const AHEAD_PER_PAGE: u64 = 8;

/// Pages that one call allocates: small enough to use a nearly full /dev/shm to the last MiB.
const ALLOCATION_STEP: u64 = (1 << 20) / page_size() as u64;

/// How often the agent checks whether pages must be allocated, while writers save pages.
const ALLOCATION_INTERVAL: Duration = Duration::from_millis(1);

/// The same while they save none: agents that wake up each millisecond make a snapshot 4 % slower
/// where three share two processors. The interval doubles up to this one.
const IDLE_INTERVAL: Duration = Duration::from_millis(4);

/// The same after an attempt that found no room.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// How long a writer waits, with its stripes, for pages that are not allocated yet: less than
/// others wait for the writer before they are refused.
const ALLOCATION_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a writer sleeps between two checks of what is allocated.
const POLL_INTERVAL: Duration = Duration::from_micros(50);

/// Why a page cannot be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum CopyError {
    /// All pages that the cut may have are in use.
    #[error("snapshot.copy_area is used up")]
    Full,
    /// The agent allocated nothing in time.
    #[error("the snapshot agent has allocated nothing for {} ms", ALLOCATION_TIMEOUT.as_millis())]
    NotAllocated,
    /// The writer's deadline passed first. The write is refused, and the cut continues.
    #[error("the writer's deadline passed before the snapshot agent had allocated anything")]
    DeadlinePassed,
    /// The file would exceed the limit of file sizes.
    #[error("the limit of file sizes of this process is {0} bytes, see ulimit -f")]
    FileLimit(u64),
    /// A system call failed.
    #[error("{0}")]
    System(Errno),
}

impl Segment {
    /// Allocates the copy area of the cut ahead of its writers, until `done` is set or the cut has
    /// ended. It runs in a thread of the agent, whose memory the area shall be, while another
    /// thread reads the cut.
    pub fn allocate_copies(&self, cut: Cut, done: &AtomicBool) {
        let attachment = &self.attachment;
        let word = |field: Field| attachment.tables.superblock.word(field);
        let limit = word(Field::CopiesLimit)
            .load(Ordering::Relaxed)
            .min(MAX_COPIES);
        // Every page in turn, even where a server has already written one: a local client may wait
        // for a page between two of a server. `prepare_cut` may have allocated the first ones.
        let mut allocated = word(Field::CopiesAllocated)
            .load(Ordering::Relaxed)
            .saturating_sub(1);
        let (mut last_taken, mut pause) = (0, ALLOCATION_INTERVAL);
        while !done.load(Ordering::Relaxed)
            && attachment.tables.superblock.gate() == Gate::Cut(cut.number)
        {
            let taken = word(Field::CopiesTaken).load(Ordering::Relaxed);
            let ahead = ALLOCATION_STEP.saturating_add(taken.saturating_mul(AHEAD_PER_PAGE));
            let wanted = taken.saturating_add(ahead.min(MAX_AHEAD)).min(limit);
            pause = if taken == last_taken {
                (pause * 2).min(IDLE_INTERVAL)
            } else {
                ALLOCATION_INTERVAL
            };
            last_taken = taken;
            while allocated < wanted {
                let step = ALLOCATION_STEP.min(wanted - allocated);
                if attachment.allocate_pages(allocated, step).is_err() {
                    pause = RETRY_INTERVAL;
                    break;
                }
                allocated += step;
                word(Field::CopiesAllocated).store(allocated + 1, Ordering::Release);
            }
            word(Field::CopiesAllocated).store(allocated + 1, Ordering::Release);
            std::thread::park_timeout(pause);
        }
    }
}

impl SegmentAttachment {
    /// Appends a page for the cut `number` and returns its slot.
    pub(super) fn copy_aside(
        &self,
        bytes: &Page,
        number: u32,
        deadline: Deadline,
    ) -> Result<u64, CopyError> {
        let slot = match self.role {
            Role::Client { .. } => self.take_allocated(number, deadline)?,
            Role::Server | Role::Agent => self
                .tables
                .superblock
                .word(Field::CopiesTaken)
                .fetch_add(1, Ordering::Relaxed),
        };
        let place = self.copy_offset(slot)?;
        match pwrite(&self.copy_area, bytes, place) {
            Ok(written) if written == bytes.len() => Ok(slot),
            // A short write: /dev/shm is full, or the limit of file sizes was reached.
            Ok(_) => Err(CopyError::System(Errno::ENOSPC)),
            Err(error) => Err(CopyError::System(error)),
        }
    }

    /// The offset of the page in the file; an error if the cut may not have so many pages.
    fn copy_offset(&self, slot: u64) -> Result<i64, CopyError> {
        let limit = self
            .tables
            .superblock
            .word(Field::CopiesLimit)
            .load(Ordering::Relaxed)
            .min(MAX_COPIES);
        offset(slot).filter(|_| slot < limit).ok_or(CopyError::Full)
    }

    /// Takes a page once its memory is allocated, if an agent allocates. Not earlier: each writer
    /// that times out would leave a hole, and the area would be used up sooner.
    fn take_allocated(&self, number: u32, deadline: Deadline) -> Result<u64, CopyError> {
        let taken = self.tables.superblock.word(Field::CopiesTaken);
        let mut until = None;
        loop {
            let slot = taken.load(Ordering::Relaxed);
            check_file_size(self.copy_offset(slot)?)?;
            let allocated = self
                .tables
                .superblock
                .word(Field::CopiesAllocated)
                .load(Ordering::Acquire);
            if allocated == 0 || slot < allocated - 1 {
                if taken
                    .compare_exchange(slot, slot + 1, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
                {
                    return Ok(slot);
                }
                continue;
            }
            let now = Instant::now();
            if now >= *until.get_or_insert(now + ALLOCATION_TIMEOUT)
                || self.tables.superblock.gate() != Gate::Cut(number)
            {
                return Err(CopyError::NotAllocated);
            }
            if deadline.has_passed() {
                return Err(CopyError::DeadlinePassed);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Reads a page and releases its memory; `false` when the page is not there.
    pub(super) fn take_copy(&self, slot: u64, buffer: &mut Page) -> bool {
        let Some(offset) = offset(slot) else {
            return false;
        };
        let read = pread(&self.copy_area, buffer, offset) == Ok(buffer.len());
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        #[allow(clippy::cast_possible_wrap)] // 4096
        let length = page_size() as i64;
        // If this fails, the memory is released when the cut ends.
        let _ = fallocate(&self.copy_area, flags, offset, length);
        read
    }

    /// Allocates memory for `count` pages starting with `first`; existing contents stay.
    fn allocate_pages(&self, first: u64, count: u64) -> nix::Result<()> {
        let begin = offset(first).ok_or(Errno::EFBIG)?;
        let length = offset(count).ok_or(Errno::EFBIG)?;
        fallocate(&self.copy_area, FallocateFlags::empty(), begin, length)
    }

    /// Allocates the first pages for a cut that may save at most `limit` bytes; none when there
    /// is no room. The caller has emptied the area, and there is no cut.
    pub(super) fn allocate_first_copies(&self, limit: u64) {
        let count = ALLOCATION_STEP.min(limit / page_size() as u64);
        if count > 0 && self.allocate_pages(0, count).is_ok() {
            self.tables
                .superblock
                .word(Field::CopiesAllocated)
                .store(count + 1, Ordering::Release);
        }
    }

    pub(super) fn copy_area_is_empty(&self) -> Result<bool, SegmentError> {
        let status = fstat(&self.copy_area).map_err(SegmentError::system(
            "read the status of the copy area of",
            &self.name,
        ))?;
        Ok(status.st_size == 0)
    }

    /// Releases all memory of the area.
    pub(super) fn empty_copy_area(&self) -> Result<(), SegmentError> {
        self.tables
            .superblock
            .word(Field::CopiesAllocated)
            .store(0, Ordering::Release);
        nix::unistd::ftruncate(&self.copy_area, 0)
            .map_err(SegmentError::system("empty the copy area of", &self.name))
    }
}

/// Refuses a write for which the kernel would send SIGXFSZ, which a program that links this library
/// may not expect.
fn check_file_size(place: i64) -> Result<(), CopyError> {
    let limit = file_size::limit();
    let end = place.unsigned_abs() + page_size() as u64;
    if end > limit {
        Err(CopyError::FileLimit(limit))
    } else {
        Ok(())
    }
}

/// The offset of a page in the file; `None` if no file can be so large.
fn offset(slot: u64) -> Option<i64> {
    i64::try_from(slot.checked_mul(page_size() as u64)?).ok()
}
