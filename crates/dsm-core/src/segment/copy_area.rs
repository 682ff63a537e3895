//! The copy area: an object beside the segment, with the pages that writers have saved for a cut.
//!
//! It is written with `pwrite(2)`, not through a mapping: the file grows as it is needed, a full
//! /dev/shm is an error and not a SIGBUS, and giving the area back under a late reader makes its
//! read short and nothing worse.
//!
//! Its memory is that of the agent that takes the snapshot, in the sense of cgroups: the agent
//! allocates ahead of the writers. A program that uses the memory locally saves pages only where
//! that was done, since its own limit of memory may be small, and the kernel would kill it there; a
//! server, whose memory it is, also beyond.

use super::cut::{Cut, Page};
use super::deadline::Deadline;
use super::gate::Gate;
use super::geometry::page_size;
use super::participant::Role;
use super::shared::Shared;
use super::superblock::Field;
use super::{Segment, SegmentError};
use crate::sys::file_size;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::fstat;
use nix::sys::uio::{pread, pwrite};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The byte that the holder of the claim locks: behind the last page that can be in the area.
pub(super) const CLAIM: i64 = i64::MAX - 1;

/// The most pages: their numbers share half a word with two others.
const MOST: u64 = u32::MAX as u64 - 2;

/// The most pages that are allocated ahead of the last one taken: what two fast writers save in
/// some milliseconds.
const MAX_AHEAD: u64 = (8 << 20) / page_size() as u64;

/// Pages allocated ahead for each page taken, up to [`MAX_AHEAD`]: a cut during which few pages are
/// saved pays for few.
const AHEAD_PER_PAGE: u64 = 8;

/// Pages that are allocated at once, so that the end of /dev/shm is used to the last MiB.
const STEP: u64 = (1 << 20) / page_size() as u64;

/// How often it is looked whether pages are to be allocated.
const LOOK: Duration = Duration::from_millis(1);

/// The same where the last attempt found no room.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long a writer waits for pages that are not allocated yet, with its stripes: less than others
/// wait for it before they are refused.
const ALLOCATION_WAIT: Duration = Duration::from_millis(500);

/// How long a writer sleeps between two looks at what is allocated.
const NAP: Duration = Duration::from_micros(50);

/// Why a page cannot be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoRoom {
    /// All pages that the cut may have are taken.
    #[error("snapshot.copy_area is used up")]
    Full,
    /// Nothing was allocated in time.
    #[error("the snapshot agent has allocated nothing for {} ms", ALLOCATION_WAIT.as_millis())]
    NotAllocated,
    /// The writer's deadline passed before that. It is refused, and the cut stays.
    #[error("the writer's deadline passed before the snapshot agent had allocated anything")]
    Late,
    /// The file may not become so large.
    #[error("the limit of file sizes of this process is {0} bytes, see ulimit -f")]
    FileLimit(u64),
    /// The operating system refused.
    #[error("{0}")]
    System(Errno),
}

impl Segment {
    /// Allocates the copy area of the cut ahead of its writers, until `done` or the end of the cut.
    /// For a thread of the process whose memory it shall be, beside the one that reads the cut.
    pub fn allocate_copies(&self, cut: Cut, done: &AtomicBool) {
        let shared = &self.shared;
        let word = |field: Field| field.of(&shared.mapping);
        let limit = word(Field::CopiesLimit).load(Ordering::Relaxed).min(MOST);
        // Every page in turn, also where a server was faster: a program may wait for one between
        // two of a server. The first ones may be there since before the cut.
        let mut allocated = word(Field::CopiesAllocated)
            .load(Ordering::Relaxed)
            .saturating_sub(1);
        while !done.load(Ordering::Relaxed) && shared.gate() == Gate::Cut(cut.number) {
            let taken = word(Field::CopiesTaken).load(Ordering::Relaxed);
            let ahead = STEP.saturating_add(taken.saturating_mul(AHEAD_PER_PAGE));
            let wanted = taken.saturating_add(ahead.min(MAX_AHEAD)).min(limit);
            let mut pause = LOOK;
            while allocated < wanted {
                let step = STEP.min(wanted - allocated);
                if shared.allocate_pages(allocated, step).is_err() {
                    pause = LOOK_AGAIN;
                    break;
                }
                allocated += step;
                word(Field::CopiesAllocated).store(allocated + 1, Ordering::Release);
            }
            word(Field::CopiesAllocated).store(allocated + 1, Ordering::Release);
            std::thread::sleep(pause);
        }
    }
}

impl Shared {
    /// Appends a page for the cut `number` and returns its place.
    pub(super) fn copy_aside(
        &self,
        bytes: &Page,
        number: u32,
        deadline: Deadline,
    ) -> Result<u64, NoRoom> {
        let slot = match self.role {
            Role::Client { .. } => self.take_allocated(number, deadline)?,
            Role::Server | Role::Beside => Field::CopiesTaken
                .of(&self.mapping)
                .fetch_add(1, Ordering::Relaxed),
        };
        let place = self.place_of_copy(slot)?;
        match pwrite(&self.copy_area, bytes, place) {
            Ok(written) if written == bytes.len() => Ok(slot),
            // Cut short by the end of the room, or by the limit of file sizes of a program.
            Ok(_) => Err(NoRoom::System(Errno::ENOSPC)),
            Err(error) => Err(NoRoom::System(error)),
        }
    }

    /// Where the page is in the file, if the cut may have so many.
    fn place_of_copy(&self, slot: u64) -> Result<i64, NoRoom> {
        let limit = Field::CopiesLimit
            .of(&self.mapping)
            .load(Ordering::Relaxed)
            .min(MOST);
        offset(slot).filter(|_| slot < limit).ok_or(NoRoom::Full)
    }

    /// Takes a page once its memory is there, if an agent allocates it. Not before: each writer
    /// that stops waiting would leave a hole, and the area would be used up sooner.
    fn take_allocated(&self, number: u32, deadline: Deadline) -> Result<u64, NoRoom> {
        let taken = Field::CopiesTaken.of(&self.mapping);
        let mut until = None;
        loop {
            let slot = taken.load(Ordering::Relaxed);
            check_allowance(self.place_of_copy(slot)?)?;
            let allocated = Field::CopiesAllocated
                .of(&self.mapping)
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
            if now >= *until.get_or_insert(now + ALLOCATION_WAIT)
                || self.gate() != Gate::Cut(number)
            {
                return Err(NoRoom::NotAllocated);
            }
            if deadline.has_passed() {
                return Err(NoRoom::Late);
            }
            std::thread::sleep(NAP);
        }
    }

    /// Reads a page and gives its memory back; `false` when it is not there.
    pub(super) fn take_copy(&self, slot: u64, buffer: &mut Page) -> bool {
        let Some(offset) = offset(slot) else {
            return false;
        };
        let read = pread(&self.copy_area, buffer, offset) == Ok(buffer.len());
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        #[allow(clippy::cast_possible_wrap)] // 4096
        let length = page_size() as i64;
        // Otherwise it is given back with all others when the cut ends.
        let _ = fallocate(&self.copy_area, flags, offset, length);
        read
    }

    /// Gives `count` pages from `first` on their memory; what is there stays as it is.
    fn allocate_pages(&self, first: u64, count: u64) -> nix::Result<()> {
        let begin = offset(first).ok_or(Errno::EFBIG)?;
        let length = offset(count).ok_or(Errno::EFBIG)?;
        fallocate(&self.copy_area, FallocateFlags::empty(), begin, length)
    }

    /// Allocates the first pages for a cut that may save at most `limit` bytes; none when there
    /// is no room. The area is empty, and the gate keeps it so: there is no cut.
    pub(super) fn allocate_first_copies(&self, limit: u64) {
        let count = STEP.min(limit / page_size() as u64);
        if count > 0 && self.allocate_pages(0, count).is_ok() {
            Field::CopiesAllocated
                .of(&self.mapping)
                .store(count + 1, Ordering::Release);
        }
    }

    pub(super) fn copy_area_is_empty(&self) -> Result<bool, SegmentError> {
        let status = fstat(&self.copy_area)
            .map_err(SegmentError::system("look at the copy area of", &self.name))?;
        Ok(status.st_size == 0)
    }

    /// Gives all of it back.
    pub(super) fn empty_copy_area(&self) -> Result<(), SegmentError> {
        Field::CopiesAllocated
            .of(&self.mapping)
            .store(0, Ordering::Release);
        nix::unistd::ftruncate(&self.copy_area, 0)
            .map_err(SegmentError::system("empty the copy area of", &self.name))
    }
}

/// Refuses what the kernel would answer with SIGXFSZ, which a program that uses the library may not
/// expect.
fn check_allowance(place: i64) -> Result<(), NoRoom> {
    let limit = file_size::limit();
    let end = place.unsigned_abs() + page_size() as u64;
    if end > limit {
        Err(NoRoom::FileLimit(limit))
    } else {
        Ok(())
    }
}

/// Where a page begins; `None` beyond what a file can have.
fn offset(slot: u64) -> Option<i64> {
    i64::try_from(slot.checked_mul(page_size() as u64)?).ok()
}
