//! Taking a restore: other bytes for a segment that is shut.

use super::session::{End, Session};
use dsm_core::layout::MAX_ATOMIC;
use dsm_core::protocol::{Extent, Refusal};
use dsm_core::segment::{Claim, Restoration, Segment, Shut};
use dsm_snapshot::agent_protocol::parse;
use dsm_snapshot::agent_protocol::{Answer, Ask, Message, Reason};
use dsm_snapshot::phase::{self, Phase};
use std::io;
use std::time::{Duration, Instant};

/// The longest time for which the memory is shut before the master begins to change it: it waits
/// until all servers are, each of which has the time for one message. After that the memory is
/// opened as it was.
const LONGEST_UNCHANGED: Duration = Duration::from_secs(60);

/// Whether a part of the memory is enough for it to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The rest is as it was before this restore, or before the one that the same master has begun.
    Enough,
    /// The rest was lost.
    TooLittle,
}

/// Which bytes a master has sent, that sends them in ascending order.
#[derive(Default)]
struct Sent {
    /// Every byte before this offset was.
    whole: u64,
    any: bool,
}

impl Sent {
    /// Returns whether these are the first ones.
    fn add(&mut self, offset: u64, length: u64) -> bool {
        if offset <= self.whole {
            self.whole = self.whole.max(offset.saturating_add(length));
        }
        length > 0 && !std::mem::replace(&mut self.any, true)
    }
}

impl Session<'_> {
    /// Says that the segment is shut, and does to it what the master says, until it is opened. If
    /// the master goes away before, it stays shut, unless nothing was changed.
    pub(super) fn restore(&mut self, claim: &mut Claim, part: Part, id: &str) -> Result<(), End> {
        let segment = claim.segment();
        let k = segment.k();
        let master = self.master();
        let mut restoration = claim
            .restoration(master)
            .ok_or_else(|| End::failed("the segment is open again"))?;
        phase::reached(Phase::Shut);
        self.connection.answer(&Answer::Shut)?;
        let mut sent = Sent::default();
        let begins_by = Instant::now() + self.connection.timeout().min(LONGEST_UNCHANGED);
        loop {
            // Others may be before this one.
            let timeout = if sent.any {
                self.long_patience()
            } else {
                begins_by.saturating_duration_since(Instant::now())
            };
            let received = self
                .connection
                .receive(timeout)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::TimedOut if !sent.any => {
                        End::Refused(Reason::Late, UNCHANGED.to_owned())
                    }
                    _ => error.into(),
                });
            let ask: Ask = match received? {
                Message::Data { offset, bytes } => {
                    let extent = Extent::new(offset, bytes.len() as u64, k).map_err(outside)?;
                    if sent.add(offset, bytes.len() as u64) {
                        restoration.begin();
                    }
                    restoration.write(extent, bytes);
                    phase::reached(Phase::Restoring);
                    continue;
                }
                Message::Control(json) => parse(json)?,
                Message::Frame(_) => {
                    return Err(End::Refused(
                        Reason::Protocol,
                        "a frame came in a restore".to_owned(),
                    ));
                }
            };
            match ask {
                Ask::Zeros { offset, length } => {
                    check_range(offset, length, k)?;
                    if sent.add(offset, length) {
                        restoration.begin();
                    }
                    zero(&mut restoration, offset, length, k)?;
                }
                Ask::Written => self.connection.answer(&Answer::Written)?,
                Ask::Cancel => {
                    let open = restoration.cancel();
                    if self.agent.served.opens() {
                        log::warn!(DSM_SERVER = self.agent.index, DSM_SNAPSHOT = id; "a restore was cancelled by {}", self.peer);
                    }
                    return Ok(self.connection.answer(&Answer::Cancelled { open })?);
                }
                Ask::Commit => {
                    check_sent(&sent, part, k)?;
                    phase::reached(Phase::Opening);
                    let incarnation = restoration.commit().map_err(End::failed)?;
                    check_in_use(&segment)?;
                    log::info!(
                        DSM_SERVER = self.agent.index, DSM_SNAPSHOT = id, DSM_INCARNATION = format!("{incarnation:016x}");
                        "the memory of server {} was restored by {}; its incarnation is {incarnation:016x} now",
                        self.agent.index, self.peer
                    );
                    return Ok(self.connection.answer(&Answer::Committed { incarnation })?);
                }
                other => return Err(End::out_of_turn(&other)),
            }
        }
    }

    /// Opens a segment that waits, as zeros. One that another master has begun to restore is that
    /// master's, or this machine's, to give up.
    pub(super) fn accept(&mut self) -> Result<(), End> {
        let mut claim = self.claim()?;
        let segment = claim.segment();
        let k = segment.k();
        if let (Some(Shut::Restoring), Some(restorer)) = (segment.shut(), segment.restorer())
            && restorer != self.master()
            && !self.is_here()
        {
            let message = format!(
                "a restore of the memory of server {} was cut short that {} had begun: restore again, or begin with zeros \
                 there, or on the machine of server {} (dsmctl memory accept-empty)",
                self.agent.index,
                restorer.to_canonical(),
                self.agent.index
            );
            return Err(End::Refused(Reason::Shut, message));
        }
        let Some(mut restoration) = claim.restoration(self.master()) else {
            let message = format!(
                "the memory of server {} is in use: there is nothing to accept",
                self.agent.index
            );
            return Err(End::Refused(Reason::InUse, message));
        };
        zero(&mut restoration, 0, k, k)?;
        let incarnation = restoration.commit().map_err(End::failed)?;
        check_in_use(&segment)?;
        log::warn!(
            DSM_SERVER = self.agent.index, DSM_INCARNATION = format!("{incarnation:016x}");
            "the memory of server {} begins as zeros, as {} has accepted", self.agent.index, self.peer
        );
        Ok(self.connection.answer(&Answer::Committed { incarnation })?)
    }
}

/// Whether what was written is what the server serves.
pub(super) fn check_in_use(segment: &Segment) -> Result<(), End> {
    if segment.is_ready() {
        return Ok(());
    }
    let message = format!(
        "{} was thrown away (dsmd --reset) meanwhile: nothing of it is in use",
        segment.name()
    );
    Err(End::Refused(Reason::Abandoned, message))
}

/// Sets a range to zeros, in steps that one change may have.
pub(super) fn zero(
    restoration: &mut Restoration<'_>,
    offset: u64,
    length: u64,
    k: u64,
) -> Result<(), End> {
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
    "nothing came that was to be restored: the memory is in use again, as it was";

/// Whether what was sent is enough to open the memory.
fn check_sent(sent: &Sent, part: Part, k: u64) -> Result<(), End> {
    let message = match part {
        _ if !sent.any => {
            "there is nothing to open the memory with: not a byte was sent".to_owned()
        }
        Part::TooLittle if sent.whole < k => format!(
            "the memory is lost or half restored, and {} of its {k} bytes would open it as it is: restore all of it",
            sent.whole
        ),
        Part::TooLittle | Part::Enough => return Ok(()),
    };
    Err(End::Refused(Reason::Protocol, message))
}

fn check_range(offset: u64, length: u64, k: u64) -> Result<(), End> {
    if offset.checked_add(length).is_none_or(|end| end > k) {
        return Err(End::Refused(
            Reason::Protocol,
            format!("{length} bytes at {offset} are not in the segment"),
        ));
    }
    Ok(())
}

// By value, as `map_err` gives it.
#[allow(clippy::needless_pass_by_value)]
fn outside(refusal: Refusal) -> End {
    End::Refused(Reason::Protocol, refusal.message)
}
