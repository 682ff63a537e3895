//! The results of checking snapshot files, and locks that let one handler check at a time: peers
//! that ask for one file many times, or for many files at once, cannot use up the processor and the
//! disk.

use dsm_snapshot::{ReadError, SnapshotFile};
use std::collections::VecDeque;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The most results that are remembered: more than the files that an agent lists.
const MAX_REMEMBERED: usize = 256;

/// The coarsest timestamps of file systems. A file that was changed less than this before its check
/// may change again with the same time of change, so its result is not remembered.
const TIMESTAMP_GRANULARITY: Duration = Duration::from_secs(2);

/// What identifies the contents of a file that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileIdentity {
    place: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileIdentity {
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

    /// Whether a later change gets another time of change.
    fn has_settled(&self) -> bool {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(self.changed.0)
            .is_ok_and(|changed| changed < now.saturating_sub(TIMESTAMP_GRANULARITY).as_secs())
    }
}

/// A lock whose waiters call a function while they wait, to tell their peers.
#[derive(Default)]
pub(super) struct SerialLock {
    taken: Mutex<bool>,
    released: Condvar,
}

/// The lock is held until this is dropped.
pub(super) struct SerialGuard<'a>(&'a SerialLock);

impl SerialLock {
    fn state(&self) -> MutexGuard<'_, bool> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the lock, and calls `report_waiting` after each `interval`.
    pub(super) fn lock<E>(
        &self,
        interval: Duration,
        mut report_waiting: impl FnMut() -> Result<(), E>,
    ) -> Result<SerialGuard<'_>, E> {
        let mut taken = self.state();
        while *taken {
            let (again, waited) = self
                .released
                .wait_timeout(taken, interval)
                .unwrap_or_else(PoisonError::into_inner);
            taken = again;
            if *taken && waited.timed_out() {
                drop(taken);
                report_waiting()?;
                taken = self.state();
            }
        }
        *taken = true;
        Ok(SerialGuard(self))
    }
}

impl Drop for SerialGuard<'_> {
    fn drop(&mut self) {
        *self.0.state() = false;
        self.0.released.notify_one();
    }
}

/// The files that were checked, the latest last. The error says what is wrong with a file.
#[derive(Default)]
pub(super) struct VerifiedFiles(Mutex<VecDeque<(FileIdentity, Result<(), String>)>>);

impl VerifiedFiles {
    fn state(&self) -> MutexGuard<'_, VecDeque<(FileIdentity, Result<(), String>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The result of an earlier check of the file, if the file has not changed since.
    pub(super) fn recall(
        &self,
        file: &SnapshotFile,
    ) -> Result<Option<Result<(), String>>, ReadError> {
        let identity = FileIdentity::of(file)?;
        Ok(self
            .state()
            .iter()
            .find(|(known, _)| *known == identity)
            .map(|(_, outcome)| outcome.clone()))
    }

    /// Checks every byte of the file and remembers the result.
    pub(super) fn verify(
        &self,
        file: &SnapshotFile,
        progress: impl FnMut(u64, u64),
    ) -> Result<(), ReadError> {
        let identity = FileIdentity::of(file)?;
        let has_settled = identity.has_settled();
        let outcome = file.verify(progress).map(drop);
        // A file that cannot be read now may be readable later.
        if has_settled
            && !matches!(outcome, Err(ReadError::System { .. }))
            && FileIdentity::of(file)? == identity
        {
            let mut known = self.state();
            if known.len() >= MAX_REMEMBERED {
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
