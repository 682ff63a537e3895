//! Participants: the processes that have the segment mapped, and how the live ones detect and
//! repair the dead ones.
//!
//! A participant holds an OFD lock on one byte of the object as long as it lives. Only this lock
//! decides whether it is alive; the pid beside the byte is for people. Participant 0 is the server.

use super::SegmentError;
use super::attachment::{SegmentAttachment, Tables};
use super::crash::{self, Point};
use super::critical::Critical;
use super::geometry::{
    FIRST_AGENT_WORKER, FIRST_CLIENT, FIRST_CLIENT_WORKER, Geometry, PARTICIPANTS, WORKERS,
};
use super::intent::pages;
use super::process::Process;
use super::repair_report::{self, RepairReport};
use super::superblock::Field;
use crate::sys::cancellation::Uncancelled;
use crate::sys::ofd;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The participant that serves the segment to the network.
pub(super) const SERVER: usize = 0;

/// The role of a participant. It bounds its share of the tables, so that no client can prevent a
/// server from restarting, or a snapshot agent from working.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Serves the segment to the network.
    Server,
    /// Works on the server's host without the permission that a client needs: a snapshot agent.
    Agent,
    /// Uses the memory as long as the server grants this permission; never zero.
    Client {
        /// The value that [`Field::LocalAccess`] must have.
        permission: u64,
    },
}

impl Role {
    /// The entries of the table of participants that it may take.
    fn entries(self) -> Range<usize> {
        match self {
            Self::Server => SERVER..SERVER + 1,
            Self::Agent => SERVER + 1..PARTICIPANTS,
            Self::Client { .. } => FIRST_CLIENT..PARTICIPANTS,
        }
    }

    /// The indexes of the workers that it may take.
    pub(super) fn workers(self) -> Range<usize> {
        match self {
            Self::Server => 0..WORKERS,
            Self::Agent => FIRST_AGENT_WORKER..WORKERS,
            Self::Client { .. } => FIRST_CLIENT_WORKER..WORKERS,
        }
    }

    /// The permission that its workers need; zero for none.
    pub(super) fn permission(self) -> u64 {
        match self {
            Self::Client { permission } => permission,
            Self::Server | Self::Agent => 0,
        }
    }
}

/// How long a starting server waits for its byte. A repairer holds the byte for a moment, another
/// server for good.
const SERVER_BYTE_TIMEOUT: Duration = Duration::from_millis(500);

/// The same if a repairer holds the byte, on a machine that may be overloaded.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(5);

/// The byte of the object whose lock shows that participant `index` is alive.
pub(super) fn byte(index: usize) -> i64 {
    // Inside the first two pages.
    #[allow(clippy::cast_possible_wrap)]
    let offset = Geometry::participant(index) as i64;
    offset
}

/// Locks the server's byte. Returns `false` when another process has it.
pub(super) fn lock_server_byte(file: BorrowedFd<'_>) -> nix::Result<bool> {
    let began = Instant::now();
    while !ofd::try_lock(file, byte(SERVER))? {
        let is_repaired = Process::repairer_of_file(file, SERVER).is_some();
        if began.elapsed()
            >= if is_repaired {
                REPAIR_TIMEOUT
            } else {
                SERVER_BYTE_TIMEOUT
            }
        {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(true)
}

/// Locks the first free byte of those that the role may take; not for the server.
pub(super) fn lock_free_byte(
    file: BorrowedFd<'_>,
    name: &str,
    role: Role,
) -> Result<usize, SegmentError> {
    for index in role.entries() {
        if ofd::try_lock(file, byte(index)).map_err(SegmentError::lock(name))? {
            return Ok(index);
        }
    }
    Err(SegmentError::TooManyParticipants {
        name: name.to_owned(),
    })
}

impl SegmentAttachment {
    /// Enters the table, after repairing what a dead predecessor in the same entry left. The caller
    /// holds the byte of this entry.
    pub(super) fn enter(&self) {
        self.repair(self.participant);
        self.tables.participants.enter(self.participant);
    }

    /// Leaves the table, so that the others do not repair this participant as a dead one.
    pub(super) fn leave(&self) {
        debug_assert!(
            !self.is_inherited(),
            "the participation of the parent process"
        );
        self.tables.participants.leave(self.participant);
    }

    /// Repairs every dead participant. Live ones are not touched.
    pub(super) fn repair_all_dead(&self) {
        for index in 0..PARTICIPANTS {
            let owns = |worker| self.tables.intents.owner(worker) == Some(index);
            if self.tables.participants.is_entered(index) || (0..WORKERS).any(owns) {
                self.repair_participant_if_dead(index);
            }
        }
    }

    /// The number of participants that are in the table and alive.
    pub(super) fn participants_alive(&self) -> usize {
        (0..PARTICIPANTS)
            .filter(|index| self.tables.participants.is_entered(*index))
            .filter(|index| self.is_alive(*index))
            .count()
    }

    /// The pid of the process that owns `worker`, or of the one that repairs it. Zero when that
    /// process has just ended, or when its pid means nothing in this pid namespace.
    pub(super) fn pid_of(&self, worker: usize) -> u64 {
        self.participant_of(worker)
            .map_or(0, |index| self.tables.participants.acting_for(index).pid())
    }

    /// The participant that owns `worker`; `None` for a worker without an owner, which was just
    /// repaired or has just released its last lock.
    fn participant_of(&self, worker: usize) -> Option<usize> {
        (worker < WORKERS)
            .then(|| self.tables.intents.owner(worker))
            .flatten()
    }

    /// Repairs the participant of `worker` if it is dead. Repairs only the worker if no participant
    /// owns it.
    #[cold]
    pub(super) fn repair_if_dead(&self, worker: usize) {
        match self.participant_of(worker) {
            Some(index) => self.repair_participant_if_dead(index),
            None => self.repair_if_orphaned(worker),
        }
    }

    fn repair_participant_if_dead(&self, index: usize) {
        if self.is_alive(index) {
            return;
        }
        // The byte excludes other processes from this repair, but not other threads of this
        // process.
        let _one_at_a_time = self
            .repairing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Another repairer may have been faster, or a new participant may have taken the entry:
        // then there is nothing to do.
        if matches!(ofd::try_lock(self.file.as_fd(), byte(index)), Ok(true)) {
            let critical = Critical::begin();
            let _uncancelled = Uncancelled::begin();
            self.repair(index);
            critical.end();
            if let Err(error) = ofd::unlock(self.file.as_fd(), byte(index)) {
                log::error!(
                    "unlock the byte of participant {index} of {}: {error}",
                    self.name
                );
            }
        }
    }

    /// The kernel reports the caller's own lock as free: hence the first comparison. If the kernel
    /// cannot tell, the participant counts as alive: repairing a live process would be worse than
    /// waiting.
    pub(super) fn is_alive(&self, index: usize) -> bool {
        index == self.participant
            || ofd::is_locked_elsewhere(self.file.as_fd(), byte(index)).unwrap_or(true)
    }

    /// Finishes what a dead participant had committed, drops what it had not, and releases its
    /// locks. The caller holds the participant's byte. It may be killed at any instruction: the
    /// next repairer starts again.
    fn repair(&self, index: usize) {
        let Tables {
            participants,
            intents,
            superblock,
            ..
        } = &self.tables;
        participants.enter_repairer(index);
        let (mut redone, mut locks) = (0, 0);
        for worker in 0..WORKERS {
            if intents.owner(worker) != Some(index) {
                continue;
            }
            let of_worker = self.repair_worker(worker);
            redone += of_worker.0;
            locks += of_worker.1;
            intents.free(worker);
        }
        let process = participants.process(index);
        let was_entered = participants.leave(index);
        participants.leave_repairer(index);
        if was_entered {
            superblock
                .word(Field::Repaired)
                .fetch_add(1, Ordering::Relaxed);
            superblock
                .word(Field::RedoneWrites)
                .fetch_add(redone, Ordering::Relaxed);
            let (segment, participant) = (self.name.as_str(), index);
            if index != SERVER && locks == 0 && redone == 0 {
                // Not worth a warning: a program has ended between two requests without leaving the
                // table.
                log::debug!(
                    "participant {index} ({process}) of {segment} has ended without leaving it"
                );
                return;
            }
            repair_report::report(&RepairReport {
                segment,
                participant,
                process,
                redone_writes: redone,
            });
        }
    }

    /// Finishes what `worker` had committed, and releases its locks. Returns the number of changes
    /// that were redone and the number of locks. The caller owns the worker, or holds the byte of
    /// its participant.
    pub(super) fn repair_worker(&self, worker: usize) -> (u64, usize) {
        let mut redone = 0;
        if let Some(intent) = self.tables.intents.committed(worker, self.geometry.k) {
            match intent {
                Ok(intent) => {
                    self.apply(worker, &intent);
                    // The dead worker may have cleared the flag and not woken them.
                    pages(intent.offset, intent.length)
                        .for_each(|page| self.tables.pages.wake_waiters(page));
                    redone = 1;
                }
                Err(what) => {
                    log::error!(
                        "a dead worker of {} left an intent that is not valid ({what}): it was dropped",
                        self.name
                    );
                }
            }
            self.tables.intents.finish(worker);
            crash::reached(Point::Redone);
        }
        (redone, self.unlock_all_of(worker))
    }
}
