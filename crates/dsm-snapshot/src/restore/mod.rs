//! Restoring a snapshot into the live memory. No server is opened with only some of its bytes:
//! until every byte that the restore replaces is there, all servers that it touches stay closed.

mod accept;
mod close;
mod error;
mod fill;
mod open;
mod plan;

pub use accept::accept_empty;
pub use error::{Interruption, RestoreError};
pub use plan::RestorePlan;

use crate::SnapshotFile;
use crate::agent_protocol::{AgentConnection, LockPurpose};
use crate::create::hex;
use close::{check_no_writer, close};
use dsm_config::Config;
use fill::{fill, fill_first_pages};
use open::open;

/// The options of [`restore`].
#[derive(Debug, Clone, Copy, Default)]
pub struct RestoreOptions {
    /// Restore although a program is writing to the memory.
    pub force: bool,
}

/// The outcome of [`restore`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The servers whose memory was replaced, each with its new incarnation.
    pub incarnations: Vec<(usize, u64)>,
    /// Bytes that came from frames of the snapshot. Zeros that no frame covers are not counted.
    pub bytes: u64,
}

/// Restores what the plan says. The caller should have verified the file. Calls `progress` with the
/// bytes of the live memory that are done and the bytes in all.
///
/// # Errors
/// [`RestoreError`]; the memory was changed only after [`RestoreError::CutShort`].
pub fn restore(
    config: &Config,
    file: &SnapshotFile,
    plan: &RestorePlan,
    options: RestoreOptions,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Restored, RestoreError> {
    let id = hex(&file.header().id());
    let parts = plan.parts(config)?;
    let mut connections = Vec::with_capacity(parts.len());
    for (server, _) in &parts {
        let mut connection = AgentConnection::open(config, *server)?;
        connection.take_snapshot_lock(LockPurpose::Restore, &id)?;
        connections.push(connection);
    }
    if !options.force {
        check_no_writer(&mut connections)?;
    }
    close(config, &mut connections, &parts)?;
    let servers = parts.iter().map(|(server, _)| *server).collect::<Vec<_>>();
    let cut_short = |servers, cause| RestoreError::CutShort { servers, cause };
    let k = config.layout.share_size();
    let bytes = fill_first_pages(k, file, plan, &parts, &mut connections)
        .and_then(|()| fill(k, file, plan, &parts, &mut connections, progress))
        .map_err(|error| cut_short(servers.clone(), error))?;
    let incarnations = open(config, file, plan, &parts, &mut connections, &id)?;
    Ok(Restored {
        incarnations,
        bytes,
    })
}
