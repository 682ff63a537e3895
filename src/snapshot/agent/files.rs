//! The snapshots that this machine has, for agents of others.

use super::super::retention::Standing;
use super::super::stream::each_part;
use super::super::wire::{Answer, Held, MAX_SHOWN_NAME, Reason, send_data};
use super::super::{FileName, ReadError, SnapshotFile, list};
use super::session::{End, Session};
use crate::printable::printable;
use std::time::{Duration, Instant};

/// How often whoever waits for a file that is being checked hears that it is: well within the time for one message.
const STILL: Duration = Duration::from_secs(2);

/// The most snapshots that are named: the newest ones.
const MOST: usize = 64;

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        Self::Refused(Reason::NoSnapshot, error.to_string())
    }
}

impl Session<'_> {
    /// The whole snapshots of this system in the directory, the newest first.
    pub(super) fn held(&self) -> Vec<Held> {
        let config = &self.agent.config;
        let listed = list(&config.snapshot.directory, config.layout.name()).unwrap_or_else(|error| {
            if self.agent.served.opens() {
                ::log::info!(DSM_SERVER = self.agent.index; "there are no snapshots here: {error}");
            }
            Vec::new()
        });
        let good = listed.into_iter().rev().filter(|file| file.standing == Standing::Good);
        let mut held: Vec<Held> = good
            .filter_map(|file| {
                let header = file.header?;
                Some(Held { cut_time: header.cut_time(), size: header.layout().size(), name: file.name })
            })
            .take(MOST)
            .collect();
        held.sort_by_key(|file| std::cmp::Reverse(file.cut_time));
        held
    }

    pub(super) fn list(&mut self) -> Result<(), End> {
        Ok(self.connection.answer(&Answer::Snapshots { files: self.held() })?)
    }

    /// Opens a snapshot of the directory and checks every byte of it.
    /// `still` is called now and then meanwhile.
    pub(super) fn open_verified(&self, name: &str, mut still: impl FnMut()) -> Result<SnapshotFile, End> {
        if FileName::parse(name).is_none() {
            let name = printable(name, MAX_SHOWN_NAME);
            return Err(End::Refused(Reason::NoSnapshot, format!("{name:?} is not the name of a snapshot")));
        }
        let config = &self.agent.config;
        let file = SnapshotFile::open(&config.snapshot.directory.join(name))?;
        if file.header().layout().name() != config.layout.name() {
            return Err(End::Refused(Reason::NoSnapshot, format!("{name} is of another system")));
        }
        let mut said = Instant::now();
        file.verify(|_, _| {
            if said.elapsed() >= STILL {
                still();
                said = Instant::now();
            }
        })?;
        Ok(file)
    }

    pub(super) fn fetch(&mut self, name: &str, address: u64, length: u64) -> Result<(), End> {
        let mut socket = self.connection.socket();
        // Whoever is gone is found out by what is sent after this.
        let file = self.open_verified(name, || drop(send_data(&mut socket, 0, &[])))?;
        let Some(end) = address.checked_add(length) else {
            return Err(End::Refused(Reason::Protocol, format!("{length} bytes at {address} are no range")));
        };
        each_part::<_, End>(&file, &(address..end), |at, bytes| Ok(send_data(&mut socket, at - address, bytes)?))?;
        if self.agent.served.opens() {
            ::log::info!(DSM_SERVER = self.agent.index, DSM_FILE = name; "gave {length} bytes of {name} to {}", self.peer);
        }
        Ok(self.connection.answer(&Answer::Fetched)?)
    }
}
