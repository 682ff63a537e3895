//! Participants: the processes that have the segment mapped, and how the living find out about the
//! dead.
//!
//! A participant holds an OFD lock on a byte of the object as long as it lives. The byte is the
//! kernel's word on who is alive; the pid beside it is for people. Participant 0 is the server.

use super::SegmentError;
use super::crash::{self, Point};
use super::critical::Critical;
use super::geometry::{
    FIRST_CLIENT, FIRST_CLIENT_WORKER, FIRST_WORKER_BESIDE, Geometry, PARTICIPANTS, WORKERS,
};
use super::intent::{Intent, IntentField};
use super::process::Process;
use super::repair_report::{self, RepairReport};
use super::shared::Shared;
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

/// What a participant is there for, which decides how much of the tables it may take: nobody may
/// keep a server that restarts, or a snapshot agent, from their work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// To serve the segment to the network.
    Server,
    /// To do what is to be done on the server's host: a snapshot agent.
    Beside,
    /// To use the memory, as long as the server gives this permission; never zero.
    Client {
        /// What must stand in [`Field::LocalAccess`].
        permission: u64,
    },
}

impl Role {
    /// The places in the table of participants.
    fn places(self) -> Range<usize> {
        match self {
            Self::Server => SERVER..SERVER + 1,
            Self::Beside => SERVER + 1..PARTICIPANTS,
            Self::Client { .. } => FIRST_CLIENT..PARTICIPANTS,
        }
    }

    /// The numbers of the workers.
    pub(super) fn workers(self) -> Range<usize> {
        match self {
            Self::Server => 0..WORKERS,
            Self::Beside => FIRST_WORKER_BESIDE..WORKERS,
            Self::Client { .. } => FIRST_CLIENT_WORKER..WORKERS,
        }
    }

    /// The permission that the workers need; zero for none.
    pub(super) fn permission(self) -> u64 {
        match self {
            Self::Client { permission } => permission,
            Self::Server | Self::Beside => 0,
        }
    }
}

/// How long a starting server waits for its byte: a repairer holds it for a moment, another server
/// for good.
const SERVER_BYTE_WAIT: Duration = Duration::from_millis(500);

/// The same where a repairer is known to hold it, which may get little of the processors.
const REPAIR_WAIT: Duration = Duration::from_secs(5);

/// The byte of the object that stands for participant `index`.
pub(super) fn byte(index: usize) -> i64 {
    // Inside the first two pages.
    #[allow(clippy::cast_possible_wrap)]
    let offset = Geometry::participant(index) as i64;
    offset
}

/// Takes the server's byte. `false` when another process has it.
pub(super) fn claim_server(file: BorrowedFd<'_>) -> nix::Result<bool> {
    let began = Instant::now();
    while !ofd::try_lock(file, byte(SERVER))? {
        let is_repaired = Process::repairer_of_file(file, SERVER).is_some();
        if began.elapsed()
            >= if is_repaired {
                REPAIR_WAIT
            } else {
                SERVER_BYTE_WAIT
            }
        {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(true)
}

/// Takes the first free byte of those for the role, which is not the server's.
pub(super) fn claim_other(
    file: BorrowedFd<'_>,
    name: &str,
    role: Role,
) -> Result<usize, SegmentError> {
    for index in role.places() {
        if ofd::try_lock(file, byte(index)).map_err(SegmentError::lock(name))? {
            return Ok(index);
        }
    }
    Err(SegmentError::TooManyParticipants {
        name: name.to_owned(),
    })
}

impl Shared {
    /// Enters the table, after repairing what a dead predecessor in the same place left behind. The
    /// caller holds the place's byte.
    pub(super) fn enter(&self) {
        self.repair(self.participant);
        Process::record(&self.mapping, self.participant);
    }

    /// Leaves the table in good order, so that nobody takes this participant for a dead one.
    pub(super) fn leave(&self) {
        debug_assert!(
            !self.is_inherited(),
            "the participation of the parent process"
        );
        self.mapping
            .word(Geometry::participant(self.participant))
            .store(0, Ordering::Relaxed);
    }

    /// Repairs every dead participant; those that are alive are left alone.
    pub(super) fn repair_all_dead(&self) {
        for index in 0..PARTICIPANTS {
            let is_entered = self
                .mapping
                .word(Geometry::participant(index))
                .load(Ordering::Relaxed)
                != 0;
            let owns = |worker| {
                self.intent_word(worker, IntentField::Owner)
                    .load(Ordering::Acquire)
                    == index as u64 + 1
            };
            if is_entered || (0..WORKERS).any(owns) {
                self.repair_participant_if_dead(index);
            }
        }
    }

    /// How many participants are in the table and alive.
    pub(super) fn participants_alive(&self) -> usize {
        (0..PARTICIPANTS)
            .filter(|index| {
                self.mapping
                    .word(Geometry::participant(*index))
                    .load(Ordering::Relaxed)
                    != 0
            })
            .filter(|index| self.is_alive(*index))
            .count()
    }

    /// The pid of the process of `worker`, or of the one that repairs it; zero when it has just
    /// gone, or is none that means anything here.
    pub(super) fn pid_of(&self, worker: usize) -> u64 {
        self.participant_of(worker)
            .map_or(0, |index| Process::acting_for(&self.mapping, index).pid())
    }

    /// Whose `worker` is; `None` for one without an owner, which has just been repaired, or given
    /// its last lock back.
    fn participant_of(&self, worker: usize) -> Option<usize> {
        if worker >= WORKERS {
            return None;
        }
        let owner = self
            .intent_word(worker, IntentField::Owner)
            .load(Ordering::Acquire);
        usize::try_from(owner)
            .ok()?
            .checked_sub(1)
            .filter(|index| *index < PARTICIPANTS)
    }

    /// Repairs the participant of `worker` if it is dead, and the worker alone if it has none.
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
        // The byte keeps other processes from the same repair, but not other threads of this one.
        let _one_at_a_time = self
            .repairing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Another repairer may have been faster, or a new participant may have the place: then
        // there is nothing to do.
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

    /// What a lock of one's own tells about oneself is always "free": hence the first comparison.
    /// When the kernel cannot tell, the participant counts as alive: a repair under its feet would
    /// be worse than a wait.
    pub(super) fn is_alive(&self, index: usize) -> bool {
        index == self.participant
            || ofd::is_locked_elsewhere(self.file.as_fd(), byte(index)).unwrap_or(true)
    }

    /// Finishes what a dead participant had committed, drops what it had not, and gives back its
    /// locks. The caller holds the participant's byte. Can be killed at any instruction: the next
    /// repairer does it again.
    fn repair(&self, index: usize) {
        Process::record_repairer(&self.mapping, index);
        let (mut redone, mut locks) = (0, 0);
        for worker in 0..WORKERS {
            let owner = self.intent_word(worker, IntentField::Owner);
            if owner.load(Ordering::Acquire) != index as u64 + 1 {
                continue;
            }
            let of_worker = self.repair_worker(worker);
            redone += of_worker.0;
            locks += of_worker.1;
            owner.store(0, Ordering::Release);
        }
        let process = Process::of(&self.mapping, index);
        let pid = self
            .mapping
            .word(Geometry::participant(index))
            .swap(0, Ordering::Relaxed);
        Process::forget_repairer(&self.mapping, index);
        if pid != 0 {
            Field::Repaired
                .of(&self.mapping)
                .fetch_add(1, Ordering::Relaxed);
            Field::RedoneWrites
                .of(&self.mapping)
                .fetch_add(redone, Ordering::Relaxed);
            let (segment, participant) = (self.name.as_str(), index);
            if index != SERVER && locks == 0 && redone == 0 {
                // A program that ended between two requests, as programs do.
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

    /// Finishes what `worker` had committed, and gives back its locks. Returns how many changes
    /// were redone, and how many locks there were. The caller owns the worker, or holds the byte of
    /// its participant.
    pub(super) fn repair_worker(&self, worker: usize) -> (u64, usize) {
        let mut redone = 0;
        if let Some(intent) = Intent::load_committed(self, worker) {
            match intent {
                Ok(intent) => {
                    self.apply(worker, &intent);
                    redone = 1;
                }
                Err(what) => {
                    log::error!(
                        "a dead worker of {} left an intent that is not sound ({what}): dropped",
                        self.name
                    );
                }
            }
            self.intent_word(worker, IntentField::Kind)
                .store(0, Ordering::Release);
            crash::reached(Point::Redone);
        }
        (redone, self.unlock_all_of(worker))
    }
}
