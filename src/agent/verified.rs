//! Which snapshots of this machine were checked, and what came of it: peers may ask for the same
//! file again and again, and for many at once, and must not keep processor and disk from others by
//! that.

use dsm_snapshot::{ReadError, SnapshotFile};
use std::collections::VecDeque;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The most results that are remembered: more than the files that an agent names.
const MOST: usize = 256;

/// A file that was changed so shortly before it was checked may be changed again without another
/// time of change: the clocks of file systems have steps of up to two seconds. Its result is not
/// remembered.
const STEP: Duration = Duration::from_secs(2);

/// A file as it was when it was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    place: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn new(metadata: &Metadata) -> Self {
        Self {
            place: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    fn of(file: &SnapshotFile) -> Result<Self, ReadError> {
        file.metadata().map(|metadata| Self::new(&metadata))
    }

    /// Whether a change from now on shows in it.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(self.changed.0)
            .is_ok_and(|changed| changed < now.saturating_sub(STEP).as_secs())
    }
}

/// What is done by one session at a time.
#[derive(Default)]
pub(super) struct Turn {
    taken: Mutex<bool>,
    given_back: Condvar,
}

/// Until this is dropped, all others wait.
pub(super) struct Taken<'a>(&'a Turn);

impl Turn {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for it, and calls `still` after each `step` of that.
    pub(super) fn take<E>(
        &self,
        step: Duration,
        mut still: impl FnMut() -> Result<(), E>,
    ) -> Result<Taken<'_>, E> {
        let mut taken = self.lock();
        while *taken {
            let (again, waited) = self
                .given_back
                .wait_timeout(taken, step)
                .unwrap_or_else(PoisonError::into_inner);
            taken = again;
            if *taken && waited.timed_out() {
                drop(taken);
                still()?;
                taken = self.lock();
            }
        }
        *taken = true;
        Ok(Taken(self))
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.0.lock() = false;
        self.0.given_back.notify_one();
    }
}

/// The files that were checked, the latest last; inside, what is wrong with one.
#[derive(Default)]
pub(super) struct Verified(Mutex<VecDeque<(Identity, Result<(), String>)>>);

impl Verified {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(Identity, Result<(), String>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came of it when the file was checked as it is now.
    pub(super) fn recall(
        &self,
        file: &SnapshotFile,
    ) -> Result<Option<Result<(), String>>, ReadError> {
        let identity = Identity::of(file)?;
        Ok(self
            .lock()
            .iter()
            .find(|(known, _)| *known == identity)
            .map(|(_, outcome)| outcome.clone()))
    }

    /// Checks every byte of the file and remembers what comes of it.
    pub(super) fn verify(
        &self,
        file: &SnapshotFile,
        progress: impl FnMut(u64, u64),
    ) -> Result<(), ReadError> {
        let identity = Identity::of(file)?;
        let is_settled = identity.is_settled();
        let outcome = file.verify(progress).map(drop);
        // What cannot be read now may be read later.
        if is_settled
            && !matches!(outcome, Err(ReadError::System { .. }))
            && Identity::of(file)? == identity
        {
            let mut known = self.lock();
            if known.len() >= MOST {
                known.pop_front();
            }
            known.push_back((
                identity,
                outcome.as_ref().map_err(ToString::to_string).copied(),
            ));
        }
        outcome
    }
}
