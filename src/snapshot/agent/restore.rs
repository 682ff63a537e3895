//! Taking a restore: other bytes for a segment that is shut.

use super::super::connection::parse;
use super::super::phase::{self, Phase};
use super::super::wire::{Answer, Ask, Message, Reason};
use super::session::{End, Session};
use crate::layout::MAX_ATOMIC;
use crate::protocol::{Extent, Refusal};
use crate::segment::{Claim, Restoration, Segment};

impl Session<'_> {
    /// Says that the segment is shut, and does to it what the master says, until it is opened. If the master goes away
    /// before, it stays shut.
    pub(super) fn restore(&mut self, claim: &mut Claim, id: &str) -> Result<(), End> {
        let segment = claim.segment();
        let k = segment.k();
        let mut restoration = claim.restoration().ok_or_else(|| End::failed("the segment is open again"))?;
        self.connection.answer(&Answer::Shut)?;
        let patience = self.long_patience();
        loop {
            // Others may be before this one.
            let ask: Ask = match self.connection.receive(patience)? {
                Message::Data { offset, bytes } => {
                    restoration.write(Extent::new(offset, bytes.len() as u64, k).map_err(outside)?, bytes);
                    phase::reached(Phase::Restoring);
                    continue;
                }
                Message::Control(json) => parse(json)?,
                Message::Frame(_) => {
                    return Err(End::Refused(Reason::Protocol, "a frame came in a restore".to_owned()));
                }
            };
            match ask {
                Ask::Zeros { offset, length } => zero(&mut restoration, offset, length, k)?,
                Ask::Written => self.connection.answer(&Answer::Written)?,
                Ask::Cancel => {
                    let open = restoration.cancel();
                    if self.agent.served.opens() {
                        ::log::warn!(DSM_SERVER = self.agent.index, DSM_SNAPSHOT = id; "a restore was cancelled by {}", self.peer);
                    }
                    return Ok(self.connection.answer(&Answer::Cancelled { open })?);
                }
                Ask::Commit => {
                    phase::reached(Phase::Opening);
                    let incarnation = restoration.commit().map_err(End::failed)?;
                    check_in_use(&segment)?;
                    ::log::info!(
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

    /// Opens a segment that waits, as zeros.
    pub(super) fn accept(&mut self) -> Result<(), End> {
        let mut claim = self.claim()?;
        let segment = claim.segment();
        let k = segment.k();
        let Some(mut restoration) = claim.restoration() else {
            let message = format!("the memory of server {} is in use: there is nothing to accept", self.agent.index);
            return Err(End::Refused(Reason::InUse, message));
        };
        zero(&mut restoration, 0, k, k)?;
        let incarnation = restoration.commit().map_err(End::failed)?;
        check_in_use(&segment)?;
        ::log::warn!(
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
    let message = format!("{} was thrown away (dsmd --reset) meanwhile: nothing of it is in use", segment.name());
    Err(End::Refused(Reason::Abandoned, message))
}

/// Sets a range to zeros, in steps that one change may have.
pub(super) fn zero(restoration: &mut Restoration<'_>, offset: u64, length: u64, k: u64) -> Result<(), End> {
    if offset.checked_add(length).is_none_or(|end| end > k) {
        return Err(End::Refused(Reason::Protocol, format!("{length} bytes at {offset} are not in the segment")));
    }
    let mut done = 0;
    while done < length {
        let step = (length - done).min(MAX_ATOMIC);
        restoration.zero(Extent::new(offset + done, step, k).map_err(outside)?);
        done += step;
    }
    Ok(())
}

// By value, as `map_err` gives it.
#[allow(clippy::needless_pass_by_value)]
fn outside(refusal: Refusal) -> End {
    End::Refused(Reason::Protocol, refusal.message)
}
