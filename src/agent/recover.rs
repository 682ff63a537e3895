//! Recovery of memory that was lost: restores this server's part of the newest whole snapshot that
//! any agent has.

use super::files::{MAX_LISTED, is_past};
use super::master_handler::{HandlerError, MasterHandler};
use super::restore::{check_in_use, zero};
use dsm_core::printable::{self, printable};
use dsm_core::protocol::{Extent, Refusal};
use dsm_core::segment::Restoration;
use dsm_snapshot::FileName;
use dsm_snapshot::agent_protocol::{AgentConnection, TransferItem};
use dsm_snapshot::agent_protocol::{AgentRequest, AgentResponse, RefusalReason, StoredSnapshot};
use dsm_snapshot::for_each_part;
use dsm_snapshot::phase::{self, SnapshotPhase};
use std::time::{Duration, Instant};

/// A snapshot, and the server whose agent has it; None for this agent.
struct RecoveryCandidate {
    file: StoredSnapshot,
    holder: Option<usize>,
}

impl MasterHandler<'_> {
    pub(super) fn recover(&mut self) -> Result<(), HandlerError> {
        let mut lock = self.acquire_lock()?;
        let segment = lock.segment();
        let Some(mut restoration) = lock.restoration(self.master_address()) else {
            let message = format!(
                "the memory of server {} is in use, and does not wait for a restore",
                self.agent.index
            );
            return Err(HandlerError::Refused(RefusalReason::InUse, message));
        };
        for candidate in self.candidates() {
            let RecoveryCandidate { file, holder } = candidate;
            match self.recover_from(&file, holder, &mut restoration) {
                Ok(()) => {
                    let incarnation = restoration.commit().map_err(HandlerError::failed)?;
                    check_in_use(&segment)?;
                    log::warn!(
                        DSM_SERVER = self.agent.index, DSM_FILE = file.name.as_str(),
                        DSM_INCARNATION = format!("{incarnation:016x}");
                        "the memory of server {} was lost, and was restored from {}",
                        self.agent.index, file.name
                    );
                    let StoredSnapshot { name, cut_time, .. } = file;
                    return Ok(self.stream.send_response(&AgentResponse::Recovered {
                        name,
                        cut_time,
                        incarnation,
                    })?);
                }
                Err(HandlerError::Lost(error)) => return Err(HandlerError::Lost(error)),
                Err(HandlerError::Refused(_, message)) => {
                    let message = printable(&message, printable::MAX_LOG_TEXT);
                    log::error!(
                        DSM_FILE = file.name.as_str();
                        "{} cannot be restored: {message}",
                        file.name
                    );
                }
            }
        }
        let message = format!(
            "no agent has a whole and sound snapshot of the memory of server {}",
            self.agent.index
        );
        Err(HandlerError::Refused(RefusalReason::NoSnapshot, message))
    }

    /// The snapshots of all agents that show all of this server's memory, the newest first. Of two
    /// with the same time, the one of this agent comes first.
    fn candidates(&self) -> Vec<RecoveryCandidate> {
        let (config, own) = (&self.agent.config, self.agent.index as usize);
        let mut candidates: Vec<RecoveryCandidate> = self
            .stored_snapshots()
            .into_iter()
            .map(|file| RecoveryCandidate { file, holder: None })
            .collect();
        for connection in AgentConnection::open_all(config, 0..config.layout.server_count()) {
            let listed = connection.and_then(|mut connection| {
                let asked = connection.server() != own;
                let response = if asked {
                    Some(connection.request(&AgentRequest::Snapshots, "list its snapshots")?)
                } else {
                    None
                };
                Ok((connection.server(), response))
            });
            match listed {
                Ok((server, Some(AgentResponse::Snapshots { files }))) => {
                    let sound = files
                        .into_iter()
                        .filter(|file| is_plausible(file, server))
                        .take(MAX_LISTED);
                    candidates.extend(sound.map(|file| RecoveryCandidate {
                        file,
                        holder: Some(server),
                    }));
                }
                Ok((_, None)) => {}
                Ok((server, Some(_))) => {
                    log::warn!("the agent of server {server} did not list its snapshots");
                }
                Err(error) => log::info!("the snapshots of another machine are left out: {error}"),
            }
        }
        // A snapshot of a smaller memory may have nothing of this server: zeros would be restored
        // as if they were data.
        let end = (own as u64 + 1) * config.layout.share_size();
        candidates.retain(|candidate| candidate.file.size >= end);
        candidates.sort_by_key(|candidate| {
            (std::cmp::Reverse(candidate.file.cut_time), candidate.holder)
        });
        candidates
    }

    fn recover_from(
        &self,
        file: &StoredSnapshot,
        holder: Option<usize>,
        memory: &mut Restoration<'_>,
    ) -> Result<(), HandlerError> {
        let (config, k) = (&self.agent.config, self.agent.config.layout.share_size());
        let base = u64::from(self.agent.index) * k;
        // An earlier candidate may have failed after it had changed bytes.
        zero(memory, 0, k, k)?;
        let mut write = |offset: u64, bytes: &[u8]| -> Result<(), HandlerError> {
            let extent = Extent::new(offset, bytes.len() as u64, k);
            memory.write(
                extent.map_err(|Refusal { message, .. }| HandlerError::failed(message))?,
                bytes,
            );
            phase::reached(SnapshotPhase::Restoring);
            Ok(())
        };
        let Some(server) = holder else {
            let file = self.open_verified(&file.name, || Ok(()))?;
            return for_each_part::<_, HandlerError>(&file, &(base..base + k), |address, bytes| {
                write(address - base, bytes)
            });
        };
        let mut connection = AgentConnection::open(config, server).map_err(HandlerError::failed)?;
        let fetch = AgentRequest::Fetch {
            name: file.name.clone(),
            address: base,
            length: k,
        };
        connection
            .send_request(&fetch, FETCH_TASK)
            .map_err(HandlerError::failed)?;
        let deadline = Instant::now() + FETCH_TIMEOUT;
        while Instant::now() < deadline {
            match connection.next(FETCH_TASK).map_err(HandlerError::failed)? {
                // An empty message: the holder is still checking the file.
                TransferItem::Data { bytes: [], .. } => {}
                TransferItem::Data { offset, bytes } => write(offset, bytes)?,
                TransferItem::End(AgentResponse::Fetched) => return Ok(()),
                TransferItem::End(other) => {
                    return Err(HandlerError::failed(connection.unexpected(&other)));
                }
                TransferItem::Frame(_) => {
                    return Err(HandlerError::failed("it sent a frame instead of data"));
                }
            }
        }
        Err(HandlerError::failed(format!(
            "the agent of server {server} did not send all of the snapshot within {} s",
            FETCH_TIMEOUT.as_secs()
        )))
    }
}

const FETCH_TASK: &str = "send its snapshot";

/// How long a fetch may take, most of it for the holder to check the file: as long as the server
/// waits that asked for its memory.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3600);

/// Whether the name and the time of a snapshot that another agent listed are plausible.
fn is_plausible(file: &StoredSnapshot, holder: usize) -> bool {
    if FileName::parse(&file.name).is_none() {
        log::warn!(
            "the agent of server {holder} lists a file whose name is not that of a snapshot: it is \
             left out"
        );
        return false;
    }
    if !is_past(file.cut_time) {
        log::warn!(
            DSM_FILE = file.name.as_str();
            "{} of the agent of server {holder} is left out because its time is in the future: \
             correct the clock of that machine or of this one",
            file.name
        );
        return false;
    }
    true
}
