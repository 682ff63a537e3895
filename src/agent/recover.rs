//! Restoring the own part of the newest whole snapshot, wherever it is, into a memory that was
//! lost.

use super::files::{MOST, is_past};
use super::restore::{check_in_use, zero};
use super::session::{End, Session};
use dsm_core::printable::{self, printable};
use dsm_core::protocol::{Extent, Refusal};
use dsm_core::segment::Restoration;
use dsm_snapshot::FileName;
use dsm_snapshot::agent_protocol::{Answer, Ask, Held, Reason};
use dsm_snapshot::agent_protocol::{Link, Part};
use dsm_snapshot::each_part;
use dsm_snapshot::phase::{self, Phase};
use std::time::{Duration, Instant};

/// A snapshot, and whose agent has it; none for this one.
struct Candidate {
    file: Held,
    holder: Option<usize>,
}

impl Session<'_> {
    pub(super) fn recover(&mut self) -> Result<(), End> {
        let mut claim = self.claim()?;
        let segment = claim.segment();
        let Some(mut restoration) = claim.restoration(self.master()) else {
            let message = format!(
                "the memory of server {} is in use: nothing is lost",
                self.agent.index
            );
            return Err(End::Refused(Reason::InUse, message));
        };
        for candidate in self.candidates() {
            let Candidate { file, holder } = candidate;
            match self.recover_from(&file, holder, &mut restoration) {
                Ok(()) => {
                    let incarnation = restoration.commit().map_err(End::failed)?;
                    check_in_use(&segment)?;
                    log::warn!(
                        DSM_SERVER = self.agent.index, DSM_FILE = file.name.as_str(),
                        DSM_INCARNATION = format!("{incarnation:016x}");
                        "the memory of server {} was lost, and is again as it was in {}", self.agent.index, file.name
                    );
                    let Held { name, cut_time, .. } = file;
                    return Ok(self.connection.answer(&Answer::Recovered {
                        name,
                        cut_time,
                        incarnation,
                    })?);
                }
                Err(End::Lost(error)) => return Err(End::Lost(error)),
                Err(End::Refused(_, message)) => {
                    let message = printable(&message, printable::LOG);
                    log::error!(DSM_FILE = file.name.as_str(); "{} cannot be restored: {message}", file.name);
                }
            }
        }
        let message = format!(
            "no sound and whole snapshot was found for server {}, here or elsewhere",
            self.agent.index
        );
        Err(End::Refused(Reason::NoSnapshot, message))
    }

    /// All that the agents have and that show all of this server, the newest first; of equals the
    /// own one.
    fn candidates(&self) -> Vec<Candidate> {
        let (config, own) = (&self.agent.config, self.agent.index as usize);
        let mut candidates: Vec<Candidate> = self
            .held()
            .into_iter()
            .map(|file| Candidate { file, holder: None })
            .collect();
        for link in Link::open_all(config, 0..config.layout.n()) {
            let listed = link.and_then(|mut link| {
                let asked = link.server() != own;
                let answer = if asked {
                    Some(link.request(&Ask::Snapshots, "list its snapshots")?)
                } else {
                    None
                };
                Ok((link.server(), answer))
            });
            match listed {
                Ok((server, Some(Answer::Snapshots { files }))) => {
                    let sound = files
                        .into_iter()
                        .filter(|file| can_be(file, server))
                        .take(MOST);
                    candidates.extend(sound.map(|file| Candidate {
                        file,
                        holder: Some(server),
                    }));
                }
                Ok((_, None)) => {}
                Ok((server, Some(_))) => {
                    log::warn!("the agent of server {server} does not list its snapshots")
                }
                Err(error) => log::info!("another machine's snapshots are not looked at: {error}"),
            }
        }
        // A snapshot of when the memory was smaller may have nothing of this server: its zeros
        // would pass for data.
        let end = (own as u64 + 1) * config.layout.k();
        candidates.retain(|candidate| candidate.file.size >= end);
        candidates.sort_by_key(|candidate| {
            (std::cmp::Reverse(candidate.file.cut_time), candidate.holder)
        });
        candidates
    }

    fn recover_from(
        &self,
        file: &Held,
        holder: Option<usize>,
        memory: &mut Restoration<'_>,
    ) -> Result<(), End> {
        let (config, k) = (&self.agent.config, self.agent.config.layout.k());
        let base = u64::from(self.agent.index) * k;
        // What an earlier try has left.
        zero(memory, 0, k, k)?;
        let mut write = |offset: u64, bytes: &[u8]| -> Result<(), End> {
            let extent = Extent::new(offset, bytes.len() as u64, k);
            memory.write(
                extent.map_err(|Refusal { message, .. }| End::failed(message))?,
                bytes,
            );
            phase::reached(Phase::Restoring);
            Ok(())
        };
        let Some(server) = holder else {
            let file = self.open_verified(&file.name, || Ok(()))?;
            return each_part::<_, End>(&file, &(base..base + k), |address, bytes| {
                write(address - base, bytes)
            });
        };
        let mut link = Link::open(config, server).map_err(End::failed)?;
        let fetch = Ask::Fetch {
            name: file.name.clone(),
            address: base,
            length: k,
        };
        link.ask(&fetch, FETCH).map_err(End::failed)?;
        let deadline = Instant::now() + LONGEST_FETCH;
        while Instant::now() < deadline {
            match link.next(FETCH).map_err(End::failed)? {
                // Nothing, to say that the holder is still checking the file.
                Part::Data { bytes: [], .. } => {}
                Part::Data { offset, bytes } => write(offset, bytes)?,
                Part::End(Answer::Fetched) => return Ok(()),
                Part::End(other) => return Err(End::failed(link.unexpected(&other))),
                Part::Frame(_) => return Err(End::failed("it sent a frame instead of data")),
            }
        }
        Err(End::failed(format!(
            "the agent of server {server} has not sent all of it in {} s",
            LONGEST_FETCH.as_secs()
        )))
    }
}

const FETCH: &str = "give its snapshot";

/// How long all of a fetch may take, most of it for the holder to check the file: as long as the
/// server waits that has asked for its memory.
const LONGEST_FETCH: Duration = Duration::from_secs(3600);

/// Whether there can be a snapshot as another agent has named it.
fn can_be(file: &Held, holder: usize) -> bool {
    if FileName::parse(&file.name).is_none() {
        log::warn!(
            "the agent of server {holder} names a snapshot as none is called: it is left out"
        );
        return false;
    }
    if !is_past(file.cut_time) {
        log::warn!(
            DSM_FILE = file.name.as_str();
            "{} of the agent of server {holder} is left out, for its time is in the future: one of the two clocks is wrong",
            file.name
        );
        return false;
    }
    true
}
