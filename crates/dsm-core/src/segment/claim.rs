//! The claim: the right of one process at a time to freeze, cut and restore a segment.
//!
//! It is an OFD lock on the copy area, which the kernel drops when its holder dies: so a cut that
//! nobody will end is told from one that is being read.

use super::copy_area::CLAIM;
use super::cut::Cut;
use super::gate::{Gate, Shut};
use super::geometry::{LARGE_SLOTS, STRIPES, page_size};
use super::restoration::Restoration;
use super::shared::Shared;
use super::superblock::Field;
use super::worker::Worker;
use super::{Segment, SegmentError};
use crate::sys::ofd;
use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a claim is tried for as a rule: a server that tidies up after a dead one holds it for a
/// moment.
pub const CLAIM_TIME: Duration = Duration::from_secs(1);

/// Why a segment cannot be frozen or cut.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// There is no memory to cut: it waits for a restore.
    #[error(transparent)]
    Shut(#[from] Shut),
    /// The time of the freeze was over before the cut.
    #[error(
        "the writers stood still for longer than allowed, and went on: raise snapshot.freeze_timeout if that is usual"
    )]
    Late,
    /// The copy area of the cut before cannot be emptied.
    #[error(transparent)]
    Segment(#[from] SegmentError),
}

/// What one who died with the claim had left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// A cut, or pages that were saved for it.
    Cut,
    /// A segment that was shut for a restore, with nothing changed.
    Shut,
}

/// The right to freeze, cut and restore a segment, until dropped.
pub struct Claim {
    worker: Worker,
    /// The copy area is empty but for pages allocated for the next cut.
    is_prepared: bool,
}

/// No writer is inside the segment and none gets in, until the cut, the drop, or the end of the
/// time. Readers go on.
pub struct Frozen<'a> {
    claim: &'a mut Claim,
    /// Until when, in ns of the machine's clock.
    until: u64,
}

impl Segment {
    /// Claims the segment. `None` when another process, or another opening of the segment in this
    /// one, has the claim. An opening claims its segment once at a time.
    ///
    /// # Errors
    /// When there is no worker left, and when the operating system does not lock.
    pub fn claim(&self) -> Result<Option<Claim>, SegmentError> {
        self.claim_within(CLAIM_TIME)
    }

    /// The same, tried for as long.
    ///
    /// # Errors
    /// As [`Segment::claim`].
    pub fn claim_within(&self, time: Duration) -> Result<Option<Claim>, SegmentError> {
        let deadline = Instant::now() + time;
        while !self.shared.take_claim()? {
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let worker = self
            .worker()
            .inspect_err(|_| self.shared.give_claim_back())?;
        if self.shared.open_unchanged() {
            log::warn!(
                "{}: one who died had shut it for a restore and changed nothing: it is open again",
                self.shared.name
            );
        }
        Ok(Some(Claim {
            worker,
            is_prepared: false,
        }))
    }

    /// Ends a cut whose maker died, and gives back the copy area of one that it did not end to the
    /// last; and opens a segment that one who died has shut without changing anything. Returns what
    /// there was to do. To be called now and then by a participant that stays.
    ///
    /// # Errors
    /// When there is no worker left, the operating system does not lock, or the copy area cannot be
    /// emptied.
    pub fn tidy(&self) -> Result<Option<Left>, SegmentError> {
        let left = || match self.shared.gate() {
            Gate::Unchanged => Ok(Some(Left::Shut)),
            Gate::Cut(_) => Ok(Some(Left::Cut)),
            _ => Ok((!self.shared.copy_area_is_empty()?).then_some(Left::Cut)),
        };
        if left()?.is_none() || !self.shared.take_claim()? {
            return Ok(None);
        }
        let worker = self
            .worker()
            .inspect_err(|_| self.shared.give_claim_back())?;
        let claim = Claim {
            worker,
            is_prepared: false,
        };
        // Looked at again, for the claim may just have been given back in good order.
        let found = left()?;
        match found {
            Some(Left::Shut) => {
                self.shared.open_unchanged();
            }
            Some(Left::Cut) => {
                let number = if let Gate::Cut(number) = self.shared.gate() {
                    number
                } else {
                    0
                };
                self.shared.end_cut(number, claim.worker.index())?;
            }
            None => {}
        }
        Ok(found)
    }

    /// Why the memory cannot be used, if so.
    #[must_use]
    pub fn shut(&self) -> Option<Shut> {
        self.shared.gate().shut()
    }
}

impl Claim {
    /// How long writers shall be left alone before the next freeze; zero as a rule.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.worker.shared.pause()
    }

    /// Allocates the first pages of the copy area for a cut that saves at most `copy_area` bytes.
    /// Otherwise that is done right after the cut, where agents on the same machine delay each
    /// other's cuts, and programs that use the memory locally wait for it. A cut that its maker
    /// left is ended first.
    ///
    /// # Errors
    /// [`FreezeError::Shut`] when a writer has stalled, [`FreezeError::Segment`] when the copy area
    /// cannot be emptied.
    pub fn prepare_cut(&mut self, copy_area: u64) -> Result<(), FreezeError> {
        let shared = &self.worker.shared;
        if let Gate::Cut(number) = shared.gate() {
            shared.end_cut(number, self.worker.index())?;
        } else {
            // A writer that saw a cut which was abandoned may still save a page for it.
            shared.wait_for_writers(self.worker.index())?;
            shared.empty_copy_area()?;
        }
        shared.allocate_first_copies(copy_area);
        self.is_prepared = true;
        Ok(())
    }

    /// Keeps writers out for at most `lease`, and returns when none is inside. A cut that its maker
    /// left is ended first. To be called when the [`Claim::pause`] is over.
    ///
    /// # Errors
    /// [`FreezeError::Shut`] when there is no memory to freeze.
    pub fn freeze(&mut self, lease: Duration) -> Result<Frozen<'_>, FreezeError> {
        let shared = &self.worker.shared;
        if let Gate::Cut(number) = shared.gate() {
            shared.end_cut(number, self.worker.index())?;
        }
        if let Some(shut) = shared.gate().shut() {
            return Err(shut.into());
        }
        let until = shared.freezes(lease);
        loop {
            let found = shared.gate();
            if let Some(shut) = found.shut() {
                return Err(shut.into());
            }
            if shared.change_gate(found, Gate::Frozen(until)) {
                break;
            }
        }
        let frozen = Frozen { claim: self, until };
        // The gate is opened by the drop, if one stands in the way.
        frozen
            .claim
            .worker
            .shared
            .wait_for_writers(frozen.claim.worker.index())?;
        Ok(frozen)
    }

    /// Begins to replace the memory of a segment that is shut, for `restorer`. `None` when it is
    /// not.
    pub fn restoration(&mut self, restorer: Ipv6Addr) -> Option<Restoration<'_>> {
        self.worker.shared.gate().shut()?;
        // Whoever died while it changed the memory holds its stripes still: what it had committed
        // is carried out now, and not after a page was found to be zeros. One that stands still is
        // waited for, however long: it would go on in the new memory.
        while self
            .worker
            .shared
            .wait_for_writers(self.worker.index())
            .is_err()
        {}
        Some(Restoration::new(&mut self.worker, restorer))
    }

    /// The segment.
    #[must_use]
    pub fn segment(&self) -> Segment {
        Segment {
            shared: std::sync::Arc::clone(&self.worker.shared),
        }
    }

    /// Ends the cut and gives its copy area back. Returns the pages that were saved; none when it
    /// was over already.
    ///
    /// # Errors
    /// When the copy area cannot be emptied.
    pub fn end_cut(&mut self, cut: Cut) -> Result<u64, SegmentError> {
        self.worker.shared.end_cut(cut.number, self.worker.index())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let shared = &self.worker.shared;
        if self.is_prepared
            && let Err(error) = shared.empty_copy_area()
        {
            log::error!("{error}");
        }
        shared.open_unchanged();
        shared.give_claim_back();
    }
}

impl Frozen<'_> {
    /// Begins a cut that shows the memory as it is now, and lets the writers go on. They save at
    /// most `copy_area` bytes of pages.
    ///
    /// # Errors
    /// When the time was over, or the copy area cannot be emptied.
    pub fn cut(self, copy_area: u64) -> Result<Cut, FreezeError> {
        let shared = &self.claim.worker.shared;
        if !std::mem::take(&mut self.claim.is_prepared) {
            shared.empty_copy_area()?;
        }
        let number = shared.number_cut(copy_area);
        if self.leads_to(Gate::Cut(number)) {
            Ok(Cut { number })
        } else {
            Err(FreezeError::Late)
        }
    }

    /// Shuts the memory, for [`Claim::restoration`]: from now on every read and change is refused.
    /// Until something was changed, the end of the claim opens it again.
    ///
    /// # Errors
    /// When the time was over.
    pub fn shut(self) -> Result<(), FreezeError> {
        if self.leads_to(Gate::Unchanged) {
            Ok(())
        } else {
            Err(FreezeError::Late)
        }
    }

    /// Changes the gate; `false` when the time was over.
    fn leads_to(&self, gate: Gate) -> bool {
        self.claim
            .worker
            .shared
            .change_gate(Gate::Frozen(self.until), gate)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // After a cut, or when the time is over, the gate is another's business.
        self.leads_to(Gate::Open);
        let shared = &self.claim.worker.shared;
        if shared.gate() != Gate::Unchanged {
            shared.thawed(self.until);
        }
    }
}

impl Shared {
    fn take_claim(&self) -> Result<bool, SegmentError> {
        ofd::try_lock(self.copy_area.as_fd(), CLAIM).map_err(SegmentError::lock(&format!(
            "the copy area of {}",
            self.name
        )))
    }

    fn give_claim_back(&self) {
        if let Err(error) = ofd::unlock(self.copy_area.as_fd(), CLAIM) {
            log::error!("unlock the copy area of {}: {error}", self.name);
        }
    }

    /// Waits once for each stripe: then every writer that has not seen the gate as it is now has
    /// left.
    ///
    /// # Errors
    /// [`Shut::Held`] when one of them has stalled.
    pub(super) fn wait_for_writers(&self, worker: usize) -> Result<(), Shut> {
        for stripe in 0..STRIPES {
            self.lock(LARGE_SLOTS + stripe, worker)?;
            self.unlock(LARGE_SLOTS + stripe, worker);
        }
        Ok(())
    }

    /// Makes the tables ready for the next cut, and returns its number. Nobody else has a cut.
    fn number_cut(&self, copy_area: u64) -> u32 {
        let field = |field: Field| field.of(&self.mapping);
        // Numbers live in half a word; zero means that there is no cut.
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
