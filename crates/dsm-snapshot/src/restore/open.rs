//! Opening the memory after its bytes were replaced: with the first server that is open, the others
//! have to follow.

use super::fill::fill_server;
use super::{Interruption, RestoreError, RestorePlan};
use crate::SnapshotFile;
use crate::agent_protocol::{AgentConnection, AgentError};
use crate::agent_protocol::{AgentRequest, AgentResponse, LockPurpose};
use dsm_config::Config;
use std::ops::Range;
use std::time::Duration;

/// The interval and the number of attempts to connect again to an agent that was lost before it had
/// opened its memory. The service manager starts a new agent when a master connects.
const REOPEN_INTERVAL: Duration = Duration::from_millis(500);
const MAX_REOPEN_ATTEMPTS: u32 = 20;

/// Opens all servers; when one fails, still opens the others, whose bytes are complete. From the
/// first server that is open, the others must follow: if the agent of one died, its part is
/// restored again with the next agent.
pub(super) fn open(
    config: &Config,
    file: &SnapshotFile,
    plan: &RestorePlan,
    parts: &[(usize, Range<u64>)],
    connections: &mut [AgentConnection],
    id: &str,
) -> Result<Vec<(usize, u64)>, RestoreError> {
    let mut incarnations = Vec::with_capacity(connections.len());
    let (mut cause, mut servers) = (None, Vec::new());
    let responses: Vec<_> = connections.iter_mut().map(commit).collect();
    for ((connection, part), response) in connections.iter().zip(parts).zip(responses) {
        match response.or_else(|error| reopen(config, file, plan, part, id).ok_or(error)) {
            Ok(incarnation) => incarnations.push((connection.server(), incarnation)),
            Err(error) => {
                servers.push(connection.server());
                cause = cause.or(Some(error));
            }
        }
    }
    match cause {
        None => Ok(incarnations),
        Some(cause) => Err(RestoreError::CutShort {
            cause: cause.into(),
            servers,
        }),
    }
}

fn commit(connection: &mut AgentConnection) -> Result<u64, AgentError> {
    match connection.request(&AgentRequest::Commit, "open its memory")? {
        AgentResponse::Committed { incarnation } => Ok(incarnation),
        other => Err(connection.unexpected(&other)),
    }
}

/// Restores and opens a server whose agent was lost while it opened the memory. None when all
/// attempts fail.
fn reopen(
    config: &Config,
    file: &SnapshotFile,
    plan: &RestorePlan,
    part: &(usize, Range<u64>),
    id: &str,
) -> Option<u64> {
    (0..MAX_REOPEN_ATTEMPTS).find_map(|_| {
        std::thread::sleep(REOPEN_INTERVAL);
        let attempt = || -> Result<u64, Interruption> {
            let mut connection = AgentConnection::open(config, part.0)?;
            let incarnation = connection.take_snapshot_lock(LockPurpose::Restore, id)?;
            let lease_us =
                u64::try_from(config.snapshot.freeze_timeout.as_micros()).unwrap_or(u64::MAX);
            match connection.request(
                &AgentRequest::Freeze { lease_us },
                "say whether it is closed",
            )? {
                // The agent had opened it before the connection was lost.
                AgentResponse::Frozen { shut: false } => return Ok(incarnation),
                AgentResponse::Frozen { shut: true } => {}
                other => return Err(connection.unexpected(&other).into()),
            }
            match connection.request(&AgentRequest::Shut, "close its memory")? {
                AgentResponse::Shut => {}
                other => return Err(connection.unexpected(&other).into()),
            }
            let base = part.0 as u64 * config.layout.share_size();
            fill_server(file, plan, &part.1, base, &mut connection, &|_| {})?;
            Ok(commit(&mut connection)?)
        };
        attempt()
            .inspect_err(|error| {
                log::warn!("the memory of server {} is not open yet: {error}", part.0);
            })
            .ok()
    })
}
