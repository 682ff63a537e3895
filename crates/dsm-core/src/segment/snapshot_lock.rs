//! The snapshot lock: at most one snapshot or restore uses a segment at a time. Its holder may
//! freeze, cut and restore the segment.
//!
//! It is an OFD lock on the copy area, which the kernel releases when its holder dies. So a cut
//! whose owner died can be told from one that is still being read.

use super::attachment::SegmentAttachment;
use super::copy_area::SNAPSHOT_LOCK_BYTE;
use super::cut::Cut;
use super::gate::{AccessError, Gate};
use super::geometry::{LARGE_SLOTS, STRIPES, page_size};
use super::restoration::Restoration;
use super::superblock::Field;
use super::worker::Worker;
use super::{Segment, SegmentError};
use crate::sys::ofd;
use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long [`Segment::snapshot_lock`] tries: a server that cleans up after a dead holder has the lock for
/// a moment.
pub const SNAPSHOT_LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a segment cannot be frozen or cut.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// The memory cannot be used: it waits for a restore.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The freeze expired before the cut.
    #[error(
        "the writers were kept out for longer than allowed, and continued: raise snapshot.freeze_timeout \
         in mcomp.cfg if this happens often"
    )]
    LeaseExpired,
    /// The copy area of the previous cut cannot be emptied.
    #[error(transparent)]
    Segment(#[from] SegmentError),
}

/// What a holder of the snapshot lock that died had left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// A cut, or pages that were saved or allocated for one.
    Cut,
    /// A segment that was closed for a restore, with nothing changed.
    ClosedMemory,
}

/// The right to freeze, cut and restore a segment. Dropping it releases the lock.
pub struct SnapshotLock {
    worker: Worker,
    /// The copy area has nothing but pages that were allocated for the next cut.
    is_prepared: bool,
}

/// A frozen segment: no writer is inside and none gets in until the cut, the drop, or the end of
/// the lease. Readers continue.
pub struct Frozen<'a> {
    lock: &'a mut SnapshotLock,
    /// The end of the lease, in ns of the machine's clock.
    until: u64,
}

impl Segment {
    /// Takes the snapshot lock. `None` when another process has it, or another opening of the
    /// segment in this process. One opening may take it only once at a time.
    ///
    /// # Errors
    /// When no worker is free, or the operating system cannot lock.
    pub fn snapshot_lock(&self) -> Result<Option<SnapshotLock>, SegmentError> {
        self.snapshot_lock_within(SNAPSHOT_LOCK_TIMEOUT)
    }

    /// The same, with this timeout.
    ///
    /// # Errors
    /// As [`Segment::snapshot_lock`].
    pub fn snapshot_lock_within(
        &self,
        timeout: Duration,
    ) -> Result<Option<SnapshotLock>, SegmentError> {
        let deadline = Instant::now() + timeout;
        while !self.attachment.take_snapshot_lock()? {
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let worker = self
            .worker()
            .inspect_err(|_| self.attachment.release_snapshot_lock())?;
        if self.attachment.open_unchanged() {
            log::warn!(
                "{}: a process closed it for a restore and died before it changed a byte: it is open again",
                self.attachment.name
            );
        }
        Ok(Some(SnapshotLock {
            worker,
            is_prepared: false,
        }))
    }

    /// Cleans up after a dead holder of the snapshot lock: ends its cut, empties a copy
    /// area that it left, and opens a segment that it closed without changing it.
    /// Returns what was found. A participant that stays, such as the server, calls this from time
    /// to time.
    ///
    /// # Errors
    /// When no worker is free, the operating system cannot lock, or the copy area cannot be
    /// emptied.
    pub fn clean_up(&self) -> Result<Option<Leftover>, SegmentError> {
        let leftover = || match self.attachment.tables.superblock.gate() {
            Gate::Unchanged => Ok(Some(Leftover::ClosedMemory)),
            Gate::Cut(_) => Ok(Some(Leftover::Cut)),
            _ => Ok((!self.attachment.copy_area_is_empty()?).then_some(Leftover::Cut)),
        };
        if leftover()?.is_none() || !self.attachment.take_snapshot_lock()? {
            return Ok(None);
        }
        let worker = self
            .worker()
            .inspect_err(|_| self.attachment.release_snapshot_lock())?;
        let lock = SnapshotLock {
            worker,
            is_prepared: false,
        };
        // Checked again: the previous holder may just have finished in good order.
        let found = leftover()?;
        match found {
            Some(Leftover::ClosedMemory) => {
                self.attachment.open_unchanged();
            }
            Some(Leftover::Cut) => {
                match self.attachment.end_abandoned_cut(lock.worker.index()) {
                    Ok(()) => {}
                    Err(FreezeError::Segment(error)) => return Err(error),
                    // A writer has stalled: the next call tries again.
                    Err(_) => return Ok(None),
                }
            }
            None => {}
        }
        Ok(found)
    }

    /// The reason why the memory cannot be used; `None` if it can.
    #[must_use]
    pub fn access_error(&self) -> Option<AccessError> {
        self.attachment.tables.superblock.gate().access_error()
    }
}

impl SnapshotLock {
    /// How long to wait before the next freeze, so that writers get their share of the time; zero
    /// as a rule.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.worker.attachment.pause()
    }

    /// Allocates the first pages of the copy area for a cut that saves at most `copy_area` bytes.
    /// Without this call they are allocated right after the cut, where local clients wait for them
    /// and agents on the same machine delay each other's cuts. Ends a cut that a dead process left.
    ///
    /// # Errors
    /// [`FreezeError::Access`] when a writer has stalled, [`FreezeError::Segment`] when the copy area
    /// cannot be emptied.
    pub fn prepare_cut(&mut self, copy_area: u64) -> Result<(), FreezeError> {
        let attachment = &self.worker.attachment;
        // A writer that has seen an abandoned cut may still save a page for it.
        attachment.end_abandoned_cut(self.worker.index())?;
        attachment.allocate_first_copies(copy_area);
        self.is_prepared = true;
        Ok(())
    }

    /// Keeps writers out for at most `lease`, and returns once no writer is inside. Ends a cut that
    /// a dead process left. Call it when the [`SnapshotLock::pause`] is over.
    ///
    /// # Errors
    /// [`FreezeError::Access`] when the memory cannot be used.
    pub fn freeze(&mut self, lease: Duration) -> Result<Frozen<'_>, FreezeError> {
        let attachment = &self.worker.attachment;
        if let Gate::Cut(_) = attachment.tables.superblock.gate() {
            attachment.end_abandoned_cut(self.worker.index())?;
        }
        if let Some(error) = attachment.tables.superblock.gate().access_error() {
            return Err(error.into());
        }
        let until = attachment.note_frozen(lease);
        loop {
            let found = attachment.tables.superblock.gate();
            if let Some(error) = found.access_error() {
                return Err(error.into());
            }
            if attachment
                .tables
                .superblock
                .change_gate(found, Gate::Frozen(until))
            {
                break;
            }
        }
        let frozen = Frozen { lock: self, until };
        // If this fails, the drop of `frozen` opens the gate.
        frozen
            .lock
            .worker
            .attachment
            .wait_for_writers(frozen.lock.worker.index())?;
        Ok(frozen)
    }

    /// Begins to replace the memory of a closed segment, for `restorer`. `None` when the segment is
    /// not closed.
    pub fn restoration(&mut self, restorer: Ipv6Addr) -> Option<Restoration<'_>> {
        self.worker
            .attachment
            .tables
            .superblock
            .gate()
            .access_error()?;
        // A process killed mid-write still owns its stripes: its committed write is redone now, and
        // not after a page was found to be zeros. A stalled writer delays this for as long as it is
        // stalled: it would otherwise continue in the new memory.
        while self
            .worker
            .attachment
            .wait_for_writers(self.worker.index())
            .is_err()
        {}
        Some(Restoration::new(&mut self.worker, restorer))
    }

    /// The index of the worker that acts for the holder.
    pub(super) fn worker_index(&self) -> usize {
        self.worker.index()
    }

    /// The segment.
    #[must_use]
    pub fn segment(&self) -> Segment {
        Segment {
            attachment: std::sync::Arc::clone(&self.worker.attachment),
        }
    }

    /// Ends the cut and empties its copy area. Returns the number of pages that were saved; zero if
    /// the cut had already ended.
    ///
    /// # Errors
    /// When the copy area cannot be emptied.
    pub fn end_cut(&mut self, cut: Cut) -> Result<u64, SegmentError> {
        self.worker
            .attachment
            .end_cut(cut.number, self.worker.index())
    }
}

impl Drop for SnapshotLock {
    fn drop(&mut self) {
        let attachment = &self.worker.attachment;
        if self.is_prepared
            && let Err(error) = attachment.empty_copy_area()
        {
            log::error!("{error}");
        }
        attachment.open_unchanged();
        attachment.release_snapshot_lock();
    }
}

impl Frozen<'_> {
    /// Begins a cut that shows the memory as it is now, and lets the writers continue. They save at
    /// most `copy_area` bytes of pages.
    ///
    /// # Errors
    /// When the lease has expired, or the copy area cannot be emptied.
    pub fn cut(self, copy_area: u64) -> Result<Cut, FreezeError> {
        let attachment = &self.lock.worker.attachment;
        if !self.lock.is_prepared {
            attachment.empty_copy_area()?;
        }
        let number = attachment.number_cut(copy_area);
        if self.change_gate_to(Gate::Cut(number)) {
            // The end of the cut empties the area; without a cut, the drop of the lock does.
            self.lock.is_prepared = false;
            Ok(Cut { number })
        } else {
            Err(FreezeError::LeaseExpired)
        }
    }

    /// Closes the memory for [`SnapshotLock::restoration`]: from now on every read and change is refused.
    /// As long as nothing was changed, releasing the snapshot lock opens it again.
    ///
    /// # Errors
    /// When the lease has expired.
    pub fn close(self) -> Result<(), FreezeError> {
        if self.change_gate_to(Gate::Unchanged) {
            Ok(())
        } else {
            Err(FreezeError::LeaseExpired)
        }
    }

    /// Changes the gate; `false` when the lease has expired.
    fn change_gate_to(&self, gate: Gate) -> bool {
        self.lock
            .worker
            .attachment
            .tables
            .superblock
            .change_gate(Gate::Frozen(self.until), gate)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // After a cut, or when the lease has expired, the gate is not frozen by this lease any
        // more, and this does nothing.
        self.change_gate_to(Gate::Open);
        let attachment = &self.lock.worker.attachment;
        if attachment.tables.superblock.gate() != Gate::Unchanged {
            attachment.note_unfrozen(self.until);
        }
    }
}

impl SegmentAttachment {
    fn take_snapshot_lock(&self) -> Result<bool, SegmentError> {
        ofd::try_lock(self.copy_area.as_fd(), SNAPSHOT_LOCK_BYTE).map_err(SegmentError::lock(
            &format!("the copy area of {}", self.name),
        ))
    }

    fn release_snapshot_lock(&self) {
        if let Err(error) = ofd::unlock(self.copy_area.as_fd(), SNAPSHOT_LOCK_BYTE) {
            log::error!("unlock the copy area of {}: {error}", self.name);
        }
    }

    /// Locks and unlocks each stripe once: after that, every writer that has not seen the present
    /// gate has left.
    ///
    /// # Errors
    /// [`AccessError::PageLockTimeout`] when a writer has stalled.
    pub(super) fn wait_for_writers(&self, worker: usize) -> Result<(), AccessError> {
        for stripe in 0..STRIPES {
            self.lock(LARGE_SLOTS + stripe, worker)?;
            self.unlock(LARGE_SLOTS + stripe, worker);
        }
        Ok(())
    }

    /// Prepares the tables for the next cut, and returns its number. The caller holds the snapshot
    /// lock, and there is no cut.
    fn number_cut(&self, copy_area: u64) -> u32 {
        let field = |field: Field| self.tables.superblock.word(field);
        // A number has half a word; zero means that there is no cut.
        #[allow(clippy::cast_possible_truncation)]
        let number = (field(Field::LastCut).load(Ordering::Relaxed) as u32)
            .wrapping_add(1)
            .max(1);
        field(Field::CopiesLimit).store(copy_area / page_size() as u64, Ordering::Relaxed);
        field(Field::CopiesTaken).store(0, Ordering::Relaxed);
        field(Field::LastCut).store(u64::from(number), Ordering::Relaxed);
        number
    }
}
