//! The transfer of a cut's pages from the agents to the file: a few threads receive, one writes.

use super::create::CreateError;
use super::phase::{self, SnapshotPhase};
use super::{DEFAULT_FRAME, SnapshotWriter, Written};
use crate::agent_protocol::{AgentConnection, AgentError, TransferItem};
use crate::agent_protocol::{AgentRequest, AgentResponse};
use dsm_config::{CompressionLevel, Config};
use dsm_core::layout::PAGE;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// The most agents that send at the same time: enough to keep a network and a disk busy. The
/// writers of the other servers save pages until it is their turn.
const MAX_CONCURRENT_SENDERS: usize = 4;

/// The most frames that were received and not written yet.
const MAX_QUEUED_FRAMES: usize = 2;

/// What a receiving thread passes to the writing one.
enum TransferEvent {
    Frame(Vec<u8>),
    /// All frames of this server have arrived, and its writers saved so many pages.
    Server(usize, u64),
    Failed(AgentError),
}

/// Receives frames from a few agents at a time and writes them to the file. Returns the file, and
/// the pages that the writers of each server saved.
pub(super) fn transfer(
    config: &Config,
    connections: Vec<AgentConnection>,
    mut writer: SnapshotWriter,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Written, Vec<u64>), CreateError> {
    let total = config.layout.share_size() * connections.len() as u64;
    let servers = connections.len();
    let mut copied = vec![0; config.layout.server_count()];
    let waiting = Mutex::new(connections.into_iter());
    let (sender, receiver) = sync_channel(MAX_QUEUED_FRAMES);
    // Buffers of frames that were written, for the next frames.
    let (spare, spares) = sync_channel(MAX_QUEUED_FRAMES + MAX_CONCURRENT_SENDERS);
    let spares = Mutex::new(spares);
    std::thread::scope(|scope| {
        for _ in 0..MAX_CONCURRENT_SENDERS.min(servers) {
            let (sender, waiting, spares) = (sender.clone(), &waiting, &spares);
            scope.spawn(move || receive_from_agents(config, waiting, &sender, spares));
        }
        drop(sender);
        write(&receiver, &spare, &mut writer, &mut copied, &mut |done| {
            progress(done, total);
        })
        // After a failure the receiver is dropped here: the receiving threads end, which closes
        // their connections.
        .inspect_err(|_| drop(receiver))
    })?;
    phase::reached(SnapshotPhase::Written);
    Ok((writer.finish()?, copied))
}

/// Writes the frames that arrive. Calls `progress` with the bytes of memory that are done, zeros
/// included.
fn write(
    receiver: &Receiver<TransferEvent>,
    spare: &SyncSender<Vec<u8>>,
    writer: &mut SnapshotWriter,
    copied: &mut [u64],
    progress: &mut dyn FnMut(u64),
) -> Result<(), CreateError> {
    let k = writer.header().layout().share_size();
    // The progress of each server: the offset after its last page, because pages arrive in
    // ascending order.
    let mut reached = vec![0; copied.len()];
    let mut done = 0;
    let mut advance = |server: usize, offset: u64| {
        done += offset - reached[server];
        reached[server] = offset;
        progress(done);
    };
    for arrived in receiver {
        match arrived {
            TransferEvent::Frame(bytes) => {
                let frame = writer.add_frame(&bytes)?;
                advance(frame.server(), (frame.first_page() + frame.pages()) * PAGE);
                phase::reached(SnapshotPhase::Copying);
                // When the pool is full, it has enough buffers.
                let _ = spare.try_send(bytes);
            }
            TransferEvent::Server(server, pages) => {
                copied[server] = pages;
                advance(server, k);
            }
            TransferEvent::Failed(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Receives from one connection after the other, until none is left or the writing thread has
/// ended.
fn receive_from_agents(
    config: &Config,
    waiting: &Mutex<std::vec::IntoIter<AgentConnection>>,
    sender: &SyncSender<TransferEvent>,
    spares: &Mutex<Receiver<Vec<u8>>>,
) {
    loop {
        let Some(mut connection) = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next()
        else {
            return;
        };
        let arrived = match receive(config, &mut connection, sender, spares) {
            Ok(Some(pages)) => TransferEvent::Server(connection.server(), pages),
            Ok(None) => return,
            Err(error) => TransferEvent::Failed(error),
        };
        if sender.send(arrived).is_err() {
            return;
        }
    }
}

/// Passes on all frames of one server. Returns the pages that its writers saved; None when the
/// writing thread has ended.
fn receive(
    config: &Config,
    connection: &mut AgentConnection,
    sender: &SyncSender<TransferEvent>,
    spares: &Mutex<Receiver<Vec<u8>>>,
) -> Result<Option<u64>, AgentError> {
    const SEND: &str = "send its pages";
    let level = config
        .snapshot
        .compression
        .level()
        .map_or(0, CompressionLevel::number);
    let server = connection.server();
    connection.send_request(
        &AgentRequest::Send {
            level,
            frame_size: DEFAULT_FRAME,
        },
        SEND,
    )?;
    loop {
        match connection.next(SEND)? {
            TransferItem::Frame(bytes) => {
                let own = u32::try_from(server).unwrap_or(u32::MAX);
                if bytes
                    .first_chunk()
                    .is_none_or(|number| u32::from_le_bytes(*number) != own)
                {
                    return Err(
                        connection.malformed("it sent a frame of another server".to_owned())
                    );
                }
                let spare = spares
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .try_recv()
                    .unwrap_or_default();
                let frame = connection.take_frame(spare);
                if sender.send(TransferEvent::Frame(frame)).is_err() {
                    return Ok(None);
                }
            }
            TransferItem::End(AgentResponse::Sent { pages_copied }) => {
                return Ok(Some(pages_copied));
            }
            TransferItem::End(other) => return Err(connection.unexpected(&other)),
            TransferItem::Data { .. } => {
                return Err(connection.malformed("it sent data instead of frames".to_owned()));
            }
        }
    }
}
