//! The snapshots that this machine has, for agents of others.

use super::session::{End, Session};
use dsm_core::printable::printable;
use dsm_snapshot::agent_protocol::{Answer, Held, MAX_SHOWN_NAME, Reason, send_data};
use dsm_snapshot::each_part;
use dsm_snapshot::retention::Standing;
use dsm_snapshot::{FileName, ReadError, SnapshotFile, list};
use std::convert::Infallible;
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often a peer that waits for a file that is being checked hears that it is: well within the
/// time for one message.
const STILL: Duration = Duration::from_secs(2);

/// The most snapshots that an agent names: the newest ones.
pub(super) const MOST: usize = 64;

/// How far the clocks of machines may be apart, as in Kerberos. A snapshot of a later time than
/// that after now is not offered, nor taken from others: it would be the newest one for as long as
/// that, whatever it holds.
const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// Whether a cut at `cut_time` ns since 1970 can have been made by now.
pub(super) fn is_past(cut_time: u64) -> bool {
    let latest = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .saturating_add(CLOCK_SKEW);
    u128::from(cut_time) <= latest.as_nanos()
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        Self::Refused(Reason::NoSnapshot, error.to_string())
    }
}

impl Session<'_> {
    /// The whole snapshots of this system in the directory, the newest first.
    pub(super) fn held(&self) -> Vec<Held> {
        let Ok(_turn) = self.agent.looks.take(STILL, || Ok::<_, Infallible>(()));
        let config = &self.agent.config;
        let listed = list(&config.snapshot.directory, config.layout.name()).unwrap_or_else(|error| {
            if self.agent.served.opens() {
                log::info!(DSM_SERVER = self.agent.index; "there are no snapshots here: {error}");
            }
            Vec::new()
        });
        let good = listed
            .into_iter()
            .filter(|file| file.standing == Standing::Good);
        let mut held: Vec<Held> = good
            .filter_map(|file| {
                let header = file.header?;
                Some(Held {
                    cut_time: header.cut_time(),
                    size: header.layout().size(),
                    name: file.name,
                })
            })
            .filter(|file| is_past(file.cut_time))
            .collect();
        held.sort_by_key(|file| std::cmp::Reverse(file.cut_time));
        held.truncate(MOST);
        held
    }

    pub(super) fn list(&mut self) -> Result<(), End> {
        Ok(self
            .connection
            .answer(&Answer::Snapshots { files: self.held() })?)
    }

    /// Opens a snapshot of the directory that is sound in every byte, as it was found once or is
    /// now. While that takes, `still` is called now and then; an error of it ends the wait for
    /// others, not what others can use later.
    pub(super) fn open_verified(
        &self,
        name: &str,
        mut still: impl FnMut() -> io::Result<()>,
    ) -> Result<SnapshotFile, End> {
        if FileName::parse(name).is_none() {
            let name = printable(name, MAX_SHOWN_NAME);
            return Err(End::Refused(
                Reason::NoSnapshot,
                format!("{name:?} is not the name of a snapshot"),
            ));
        }
        let config = &self.agent.config;
        let turn = self.agent.looks.take(STILL, &mut still)?;
        let file = SnapshotFile::open(&config.snapshot.directory.join(name))?;
        drop(turn);
        if file.header().layout().name() != config.layout.name() {
            return Err(End::Refused(
                Reason::NoSnapshot,
                format!("{name} is of another system"),
            ));
        }
        let recall = |file| match self.agent.verified.recall(file)? {
            Some(Err(message)) => Err(End::Refused(Reason::NoSnapshot, message)),
            known => Ok(known.is_some()),
        };
        if recall(&file)? {
            return Ok(file);
        }
        let _turn = self.agent.checks.take(STILL, &mut still)?;
        // Those before may have checked the same one.
        if !recall(&file)? {
            let mut said = Instant::now();
            self.agent.verified.verify(&file, |_, _| {
                if said.elapsed() >= STILL {
                    let _ = still();
                    said = Instant::now();
                }
            })?;
        }
        Ok(file)
    }

    pub(super) fn fetch(&mut self, name: &str, address: u64, length: u64) -> Result<(), End> {
        let mut socket = self.connection.socket();
        let file = self.open_verified(name, || send_data(&mut socket, 0, &[]))?;
        let Some(end) = address.checked_add(length) else {
            return Err(End::Refused(
                Reason::Protocol,
                format!("{length} bytes at {address} are no range"),
            ));
        };
        each_part::<_, End>(&file, &(address..end), |at, bytes| {
            Ok(send_data(&mut socket, at - address, bytes)?)
        })?;
        if self.agent.served.opens() {
            log::info!(DSM_SERVER = self.agent.index, DSM_FILE = name; "gave {length} bytes of {name} to {}", self.peer);
        }
        Ok(self.connection.answer(&Answer::Fetched)?)
    }
}
