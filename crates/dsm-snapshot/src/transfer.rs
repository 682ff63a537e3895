//! The pages of a cut on their way from the agents to the file.

use super::create::CreateError;
use super::phase::{self, Phase};
use super::{DEFAULT_FRAME, SnapshotWriter, Written};
use crate::agent_protocol::{AgentError, Link, Part};
use crate::agent_protocol::{Answer, Ask};
use dsm_config::{Config, Level};
use dsm_core::layout::PAGE;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Agents that send at the same time: enough to keep a network and a disk busy. The others wait,
/// and save pages.
const SENDERS: usize = 4;

/// Frames that were received and are not written yet.
const FRAMES: usize = 2;

/// What a sender gives to the writer.
enum Arrived {
    Frame(Vec<u8>),
    /// All of this server is here; its writers have saved so many pages.
    Server(usize, u64),
    Failed(AgentError),
}

/// Receives from a few agents at a time, and writes.
pub(super) fn transfer(
    config: &Config,
    links: Vec<Link>,
    mut writer: SnapshotWriter,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Written, Vec<u64>), CreateError> {
    let total = config.layout.k() * links.len() as u64;
    let servers = links.len();
    let mut copied = vec![0; config.layout.n()];
    let waiting = Mutex::new(links.into_iter());
    let (sender, receiver) = sync_channel(FRAMES);
    // Frames that were written, to be filled again.
    let (spare, spares) = sync_channel(FRAMES + SENDERS);
    let spares = Mutex::new(spares);
    std::thread::scope(|scope| {
        for _ in 0..SENDERS.min(servers) {
            let (sender, waiting, spares) = (sender.clone(), &waiting, &spares);
            scope.spawn(move || receive_each(config, waiting, &sender, spares));
        }
        drop(sender);
        write(&receiver, &spare, &mut writer, &mut copied, &mut |done| {
            progress(done, total)
        })
        // The receiver is dropped here when that has failed: then senders stop, and their links are
        // closed.
        .inspect_err(|_| drop(receiver))
    })?;
    phase::reached(Phase::Written);
    Ok((writer.finish()?, copied))
}

/// Writes what arrives. `progress` is told how many bytes of the memory are done, zeros among them.
fn write(
    receiver: &Receiver<Arrived>,
    spare: &SyncSender<Vec<u8>>,
    writer: &mut SnapshotWriter,
    copied: &mut [u64],
    progress: &mut dyn FnMut(u64),
) -> Result<(), CreateError> {
    let k = writer.header().layout().k();
    // How far each server is; pages come in ascending order.
    let mut reached = vec![0; copied.len()];
    let mut done = 0;
    let mut advance = |server: usize, offset: u64| {
        done += offset - reached[server];
        reached[server] = offset;
        progress(done);
    };
    for arrived in receiver {
        match arrived {
            Arrived::Frame(bytes) => {
                let frame = writer.add_frame(&bytes)?;
                advance(frame.server(), (frame.first_page() + frame.pages()) * PAGE);
                phase::reached(Phase::Copying);
                // A full pool has enough.
                let _ = spare.try_send(bytes);
            }
            Arrived::Server(server, pages) => {
                copied[server] = pages;
                advance(server, k);
            }
            Arrived::Failed(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Takes one link after the other and passes on all that comes, until there is none left or nobody
/// listens.
fn receive_each(
    config: &Config,
    waiting: &Mutex<std::vec::IntoIter<Link>>,
    sender: &SyncSender<Arrived>,
    spares: &Mutex<Receiver<Vec<u8>>>,
) {
    loop {
        let Some(mut link) = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next()
        else {
            return;
        };
        let arrived = match receive(config, &mut link, sender, spares) {
            Ok(Some(pages)) => Arrived::Server(link.server(), pages),
            Ok(None) => return,
            Err(error) => Arrived::Failed(error),
        };
        if sender.send(arrived).is_err() {
            return;
        }
    }
}

/// Passes on all frames of one server. Returns the pages that its writers have saved; none when
/// nobody listens.
fn receive(
    config: &Config,
    link: &mut Link,
    sender: &SyncSender<Arrived>,
    spares: &Mutex<Receiver<Vec<u8>>>,
) -> Result<Option<u64>, AgentError> {
    const SEND: &str = "send its pages";
    let level = config.snapshot.compression.level().map_or(0, Level::number);
    let server = link.server();
    link.ask(
        &Ask::Send {
            level,
            frame_size: DEFAULT_FRAME,
        },
        SEND,
    )?;
    loop {
        match link.next(SEND)? {
            Part::Frame(bytes) => {
                let own = u32::try_from(server).unwrap_or(u32::MAX);
                if bytes
                    .first_chunk()
                    .is_none_or(|number| u32::from_le_bytes(*number) != own)
                {
                    return Err(link.garbage("it sent a frame of another server".to_owned()));
                }
                let spare = spares
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .try_recv()
                    .unwrap_or_default();
                let frame = link.take_frame(spare);
                if sender.send(Arrived::Frame(frame)).is_err() {
                    return Ok(None);
                }
            }
            Part::End(Answer::Sent { pages_copied }) => return Ok(Some(pages_copied)),
            Part::End(other) => return Err(link.unexpected(&other)),
            Part::Data { .. } => {
                return Err(link.garbage("it sent data instead of frames".to_owned()));
            }
        }
    }
}
