//! The snapshot files of this machine, which agents of other machines list and fetch.

use super::master_handler::{HandlerError, MasterHandler};
use dsm_core::printable::printable;
use dsm_snapshot::agent_protocol::{
    AgentResponse, MAX_SHOWN_NAME, RefusalReason, StoredSnapshot, send_data,
};
use dsm_snapshot::for_each_part;
use dsm_snapshot::retention::Standing;
use dsm_snapshot::{FileName, ReadError, SnapshotFile, list};
use std::convert::Infallible;
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often the agent sends an empty data message to a peer that waits while a file is checked:
/// well within the time for one message.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// The most snapshots that an agent lists: the newest ones.
pub(super) const MAX_LISTED: usize = 64;

/// How far the clocks of machines may differ, as in Kerberos. An agent neither offers nor fetches a
/// snapshot whose time is further in the future: it would be the newest one until that time.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// Whether a cut at `cut_time`, in ns since 1970, can have been made by now.
pub(super) fn is_past(cut_time: u64) -> bool {
    let latest = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .saturating_add(CLOCK_SKEW);
    u128::from(cut_time) <= latest.as_nanos()
}

impl From<ReadError> for HandlerError {
    fn from(error: ReadError) -> Self {
        Self::Refused(RefusalReason::NoSnapshot, error.to_string())
    }
}

impl MasterHandler<'_> {
    /// The whole snapshots of this system in the directory, the newest first.
    pub(super) fn stored_snapshots(&self) -> Vec<StoredSnapshot> {
        let Ok(_guard) = self
            .agent
            .brief_checks
            .lock(PROGRESS_INTERVAL, || Ok::<_, Infallible>(()));
        let config = &self.agent.config;
        let listed =
            list(&config.snapshot.directory, config.layout.name()).unwrap_or_else(|error| {
                if self.agent.served.allows() {
                    log::info!(
                        DSM_SERVER = self.agent.index;
                        "this agent offers no snapshots: {error}"
                    );
                }
                Vec::new()
            });
        let good = listed
            .into_iter()
            .filter(|file| file.standing == Standing::Good);
        let mut stored: Vec<StoredSnapshot> = good
            .filter_map(|file| {
                let header = file.header?;
                Some(StoredSnapshot {
                    cut_time: header.cut_time(),
                    size: header.layout().size(),
                    name: file.name,
                })
            })
            .filter(|file| is_past(file.cut_time))
            .collect();
        stored.sort_by_key(|file| std::cmp::Reverse(file.cut_time));
        stored.truncate(MAX_LISTED);
        stored
    }

    pub(super) fn list(&mut self) -> Result<(), HandlerError> {
        Ok(self.stream.send_response(&AgentResponse::Snapshots {
            files: self.stored_snapshots(),
        })?)
    }

    /// Opens a snapshot of the directory, every byte of which was checked, now or earlier. Calls
    /// `report_waiting` every [`PROGRESS_INTERVAL`]. An error of it ends the wait for other
    /// handlers, but not a check whose result other handlers can use.
    pub(super) fn open_verified(
        &self,
        name: &str,
        mut report_waiting: impl FnMut() -> io::Result<()>,
    ) -> Result<SnapshotFile, HandlerError> {
        if FileName::parse(name).is_none() {
            let name = printable(name, MAX_SHOWN_NAME);
            return Err(HandlerError::Refused(
                RefusalReason::NoSnapshot,
                format!("{name:?} is not the name of a snapshot"),
            ));
        }
        let config = &self.agent.config;
        let guard = self
            .agent
            .brief_checks
            .lock(PROGRESS_INTERVAL, &mut report_waiting)?;
        let file = SnapshotFile::open(&config.snapshot.directory.join(name))?;
        drop(guard);
        if file.header().layout().name() != config.layout.name() {
            return Err(HandlerError::Refused(
                RefusalReason::NoSnapshot,
                format!("{name} is a snapshot of another system"),
            ));
        }
        let recall = |file| match self.agent.verified_files.recall(file)? {
            Some(Err(message)) => Err(HandlerError::Refused(RefusalReason::NoSnapshot, message)),
            known => Ok(known.is_some()),
        };
        if recall(&file)? {
            return Ok(file);
        }
        let _guard = self
            .agent
            .full_checks
            .lock(PROGRESS_INTERVAL, &mut report_waiting)?;
        // Another handler may have checked this file while this one waited.
        if !recall(&file)? {
            let mut said = Instant::now();
            self.agent.verified_files.verify(&file, |_, _| {
                if said.elapsed() >= PROGRESS_INTERVAL {
                    let _ = report_waiting();
                    said = Instant::now();
                }
            })?;
        }
        Ok(file)
    }

    pub(super) fn fetch(
        &mut self,
        name: &str,
        address: u64,
        length: u64,
    ) -> Result<(), HandlerError> {
        let mut socket = self.stream.socket();
        let file = self.open_verified(name, || send_data(&mut socket, 0, &[]))?;
        let Some(end) = address.checked_add(length) else {
            return Err(HandlerError::Refused(
                RefusalReason::Protocol,
                format!("{length} bytes at address {address} exceed the range of addresses"),
            ));
        };
        for_each_part::<_, HandlerError>(&file, &(address..end), |at, bytes| {
            Ok(send_data(&mut socket, at - address, bytes)?)
        })?;
        if self.agent.served.allows() {
            log::info!(
                DSM_SERVER = self.agent.index, DSM_FILE = name;
                "sent {length} bytes of {name} to {}",
                self.peer
            );
        }
        Ok(self.stream.send_response(&AgentResponse::Fetched)?)
    }
}
