//! The upgrade of a segment of format 3, in place, by the server that opens it.
//!
//! Format 3 differs in the versions of the pages, whose counters have 64 bits, in the owners of
//! workers, and in the layout's fingerprint, which covered all servers. The upgrade first makes sure
//! that no program of format 3 changes the memory any more: local clients have lost their
//! permission, agents need the snapshot lock, and after each stripe was locked once no writer is
//! inside. The format is written last. A process that is killed in between leaves a segment of
//! format 3 without local clients: the next start upgrades it again, and an older dsmd can serve it.
//!
//! Clients of format 3 that stay mapped find their permission gone and use TCP.

use super::crash::{self, Point};
use super::gate::AccessError;
use super::geometry::PARTICIPANTS;
use super::page_version;
use super::participant::SERVER;
use super::process::Process;
use super::snapshot_lock::{FreezeError, SnapshotLock};
use super::superblock::Identity;
use super::{Segment, SegmentError};
use crate::layout::PAGE;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long the upgrade waits for a snapshot or restore that is under way.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);

impl Segment {
    /// Upgrades a segment of the older format. The caller serves it, has repaired the dead
    /// participants and has withdrawn the permission of local clients.
    pub(super) fn upgrade(&self, identity: &Identity) -> Result<(), SegmentError> {
        match self.snapshot_lock_within(SNAPSHOT_TIMEOUT)? {
            Some(mut lock) => lock.upgrade(identity),
            None => Err(self.not_upgradable(self.first_agent())),
        }
    }

    /// The first live participant that is not the server: agents take the first entries.
    fn first_agent(&self) -> Process {
        let participants = &self.attachment.tables.participants;
        (SERVER + 1..PARTICIPANTS)
            .find(|index| participants.is_entered(*index) && self.attachment.is_alive(*index))
            .map_or(Process::Unknown, |index| participants.process(index))
    }

    fn not_upgradable(&self, process: Process) -> SegmentError {
        SegmentError::NotUpgradable {
            name: self.name().to_owned(),
            process,
        }
    }
}

impl SnapshotLock {
    fn upgrade(&mut self, identity: &Identity) -> Result<(), SegmentError> {
        let segment = self.segment();
        let attachment = &segment.attachment;
        let tables = &attachment.tables;
        let worker = self.worker_index();
        tables
            .intents
            .own_as_format_3(worker, attachment.participant);
        // The owner of a cut has died, since this process has the snapshot lock.
        attachment
            .end_abandoned_cut(worker)
            .map_err(|error| match error {
                FreezeError::Segment(error) => error,
                FreezeError::Access(AccessError::PageLockTimeout { pid }) if pid != 0 => {
                    segment.not_upgradable(Process::Pid(pid))
                }
                _ => segment.not_upgradable(Process::Unknown),
            })?;
        crash::reached(Point::UpgradeBegun);
        let cut = tables.superblock.last_cut();
        // At most k, which is a usize.
        #[allow(clippy::cast_possible_truncation)]
        let pages = (segment.share_size() / PAGE) as usize;
        for page in 0..pages {
            let version = tables.pages.version(page);
            let old = version.load(Ordering::Relaxed);
            version.store(page_version::of_format_3(old, cut), Ordering::Relaxed);
            if page == pages / 2 {
                crash::reached(Point::UpgradeHalfDone);
            }
        }
        tables.superblock.write_fingerprint(identity.fingerprint);
        crash::reached(Point::UpgradeDone);
        tables.superblock.write_format();
        log::info!(
            "{}: upgraded from the format of older releases",
            segment.name()
        );
        Ok(())
    }
}
