//! The agent's part of a restore: replaces bytes of a closed segment and opens it. A segment of
//! which a byte was changed stays closed until a restore or `accept` completes.

use super::master_handler::{HandlerError, MasterHandler};
use dsm_core::layout::MAX_ATOMIC;
use dsm_core::protocol::{Extent, Refusal};
use dsm_core::segment::{AccessError, Restoration, Segment, SnapshotLock};
use dsm_snapshot::agent_protocol::parse;
use dsm_snapshot::agent_protocol::{AgentMessage, AgentRequest, AgentResponse, RefusalReason};
use dsm_snapshot::phase::{self, SnapshotPhase};
use std::io;
use std::time::{Duration, Instant};

/// The longest time for which the memory is closed before the master begins to change it: the
/// master first closes the memory of all servers, which takes up to the time for one message. After
/// that time the memory is opened as it was.
const MAX_UNCHANGED: Duration = Duration::from_secs(60);

/// How much of the memory the master must send before it can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RestoreCoverage {
    /// A part is enough: the rest is as it was before this restore, or before the one that the same
    /// master began.
    Any,
    /// All of it: the rest was lost, or another master began to restore it.
    Whole,
}

/// Which bytes a master has sent, if it sends them in ascending order.
#[derive(Default)]
struct SentRange {
    /// Every byte before this offset was sent.
    end: u64,
    begun: bool,
}

impl SentRange {
    /// Adds a range. Returns whether it is the first one.
    fn add(&mut self, offset: u64, length: u64) -> bool {
        if offset <= self.end {
            self.end = self.end.max(offset.saturating_add(length));
        }
        length > 0 && !std::mem::replace(&mut self.begun, true)
    }
}

impl MasterHandler<'_> {
    /// Answers that the segment is closed, and carries out the master's requests until the segment
    /// is opened. If the connection ends before, the segment stays closed if a byte was changed,
    /// and is opened as it was if not.
    pub(super) fn restore(
        &mut self,
        lock: &mut SnapshotLock,
        coverage: RestoreCoverage,
        id: &str,
    ) -> Result<(), HandlerError> {
        let segment = lock.segment();
        let k = segment.share_size();
        let master = self.master_address();
        let mut restoration = lock.restoration(master).ok_or_else(|| {
            HandlerError::failed("the memory was opened before it could be restored")
        })?;
        phase::reached(SnapshotPhase::Shut);
        self.stream.send_response(&AgentResponse::Shut)?;
        let mut sent = SentRange::default();
        let begins_by = Instant::now() + self.stream.timeout().min(MAX_UNCHANGED);
        loop {
            // The master may send to other servers first.
            let timeout = if sent.begun {
                self.transfer_wait()
            } else {
                begins_by.saturating_duration_since(Instant::now())
            };
            let received = self
                .stream
                .receive(timeout)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::TimedOut if !sent.begun => {
                        HandlerError::Refused(RefusalReason::Late, UNCHANGED.to_owned())
                    }
                    _ => error.into(),
                });
            let request: AgentRequest = match received? {
                AgentMessage::Data { offset, bytes } => {
                    let extent = Extent::new(offset, bytes.len() as u64, k).map_err(outside)?;
                    if sent.add(offset, bytes.len() as u64) {
                        restoration.begin();
                    }
                    restoration.write(extent, bytes);
                    phase::reached(SnapshotPhase::Restoring);
                    continue;
                }
                AgentMessage::Control(json) => parse(json)?,
                AgentMessage::Frame(_) => {
                    return Err(HandlerError::Refused(
                        RefusalReason::Protocol,
                        "a frame is not allowed in a restore".to_owned(),
                    ));
                }
            };
            match request {
                AgentRequest::Zeros { offset, length } => {
                    check_range(offset, length, k)?;
                    if sent.add(offset, length) {
                        restoration.begin();
                    }
                    zero(&mut restoration, offset, length, k)?;
                }
                AgentRequest::Written => self.stream.send_response(&AgentResponse::Written)?,
                AgentRequest::Cancel => {
                    let open = restoration.cancel();
                    if self.agent.served.allows() {
                        log::warn!(
                            DSM_SERVER = self.agent.index, DSM_SNAPSHOT = id;
                            "a restore was cancelled by {}",
                            self.peer
                        );
                    }
                    return Ok(self
                        .stream
                        .send_response(&AgentResponse::Cancelled { open })?);
                }
                AgentRequest::Commit => {
                    check_sent(&sent, coverage, k)?;
                    phase::reached(SnapshotPhase::Opening);
                    let incarnation = restoration.commit().map_err(HandlerError::failed)?;
                    check_in_use(&segment)?;
                    log::info!(
                        DSM_SERVER = self.agent.index, DSM_SNAPSHOT = id,
                        DSM_INCARNATION = format!("{incarnation:016x}");
                        "the memory of server {} was restored by {}; its incarnation is \
                         {incarnation:016x} now",
                        self.agent.index, self.peer
                    );
                    return Ok(self
                        .stream
                        .send_response(&AgentResponse::Committed { incarnation })?);
                }
                other => return Err(HandlerError::out_of_turn(&other)),
            }
        }
    }

    /// Opens a segment that waits for a restore, as zeros. If a master began to restore it, only
    /// that master or a program on this machine may.
    pub(super) fn accept(&mut self) -> Result<(), HandlerError> {
        let mut lock = self.acquire_lock()?;
        let segment = lock.segment();
        let k = segment.share_size();
        if let (Some(AccessError::Restoring), Some(restorer)) =
            (segment.access_error(), segment.restorer())
            && restorer != self.master_address()
            && !self.master_is_local()
        {
            let message = format!(
                "{1} began to restore the memory of server {0}, and that restore was cut short: \
                 restore again, or begin with zeros there or on the machine of server {0} (dsmctl \
                 memory accept-empty)",
                self.agent.index,
                restorer.to_canonical()
            );
            return Err(HandlerError::Refused(RefusalReason::Shut, message));
        }
        let Some(mut restoration) = lock.restoration(self.master_address()) else {
            let message = format!(
                "the memory of server {} is in use, and does not wait for a restore",
                self.agent.index
            );
            return Err(HandlerError::Refused(RefusalReason::InUse, message));
        };
        zero(&mut restoration, 0, k, k)?;
        let incarnation = restoration.commit().map_err(HandlerError::failed)?;
        check_in_use(&segment)?;
        log::warn!(
            DSM_SERVER = self.agent.index, DSM_INCARNATION = format!("{incarnation:016x}");
            "the memory of server {} begins as zeros, as {} has accepted",
            self.agent.index, self.peer
        );
        Ok(self
            .stream
            .send_response(&AgentResponse::Committed { incarnation })?)
    }
}

/// Checks that the segment is still the one that the server serves.
pub(super) fn check_in_use(segment: &Segment) -> Result<(), HandlerError> {
    if segment.is_ready() {
        return Ok(());
    }
    let message = format!(
        "{} was thrown away (dsmd --reset) before this was complete: the server uses a new segment",
        segment.name()
    );
    Err(HandlerError::Refused(RefusalReason::Abandoned, message))
}

/// Sets a range to zeros, in steps of at most [`MAX_ATOMIC`] bytes.
pub(super) fn zero(
    restoration: &mut Restoration<'_>,
    offset: u64,
    length: u64,
    k: u64,
) -> Result<(), HandlerError> {
    check_range(offset, length, k)?;
    let mut done = 0;
    while done < length {
        let step = (length - done).min(MAX_ATOMIC);
        restoration.zero(Extent::new(offset + done, step, k).map_err(outside)?);
        done += step;
    }
    Ok(())
}

const UNCHANGED: &str =
    "no byte of the restore came in time: the memory is in use again, as it was";

/// Checks that enough was sent to open the memory.
fn check_sent(sent: &SentRange, coverage: RestoreCoverage, k: u64) -> Result<(), HandlerError> {
    let message = match coverage {
        _ if !sent.begun => {
            "no byte of the restore was sent, so the memory cannot be opened".to_owned()
        }
        RestoreCoverage::Whole if sent.end < k => format!(
            "the memory is lost or half restored, and only {} of its {k} bytes were sent: restore \
             all of it",
            sent.end
        ),
        RestoreCoverage::Whole | RestoreCoverage::Any => return Ok(()),
    };
    Err(HandlerError::Refused(RefusalReason::Protocol, message))
}

fn check_range(offset: u64, length: u64, k: u64) -> Result<(), HandlerError> {
    if offset.checked_add(length).is_none_or(|end| end > k) {
        return Err(HandlerError::Refused(
            RefusalReason::Protocol,
            format!("{length} bytes at offset {offset} are not in the segment"),
        ));
    }
    Ok(())
}

// By value, as `map_err` gives it.
#[allow(clippy::needless_pass_by_value)]
fn outside(refusal: Refusal) -> HandlerError {
    HandlerError::Refused(RefusalReason::Protocol, refusal.message)
}
