//! Closing the memory: the agents freeze it and then close it, all of them or none.

use super::RestoreError;
use crate::agent_protocol::{AgentConnection, AgentError, FREEZE_TASK};
use crate::agent_protocol::{AgentRequest, AgentResponse};
use dsm_config::Config;
use std::ops::Range;
use std::time::Duration;

/// The interval between two reads of the activity numbers, which detect a writer.
const ACTIVITY_INTERVAL: Duration = Duration::from_secs(1);

/// Reads the activity number of every server twice, and fails when one has changed: a program is
/// writing then.
pub(super) fn check_no_writer(connections: &mut [AgentConnection]) -> Result<(), RestoreError> {
    let mut read_activity = || {
        let mut numbers = Vec::with_capacity(connections.len());
        for connection in &mut *connections {
            match connection.request(&AgentRequest::Activity, "say whether a program writes")? {
                AgentResponse::Activity { number } => numbers.push((connection.server(), number)),
                other => return Err(connection.unexpected(&other)),
            }
        }
        Ok(numbers)
    };
    let before = read_activity()?;
    std::thread::sleep(ACTIVITY_INTERVAL);
    let after = read_activity()?;
    match before
        .iter()
        .zip(&after)
        .find(|(before, after)| before != after)
    {
        Some(((server, _), _)) => Err(RestoreError::Busy(*server)),
        None => Ok(()),
    }
}

/// Freezes all servers and then closes all. When one fails, opens those that are closed again.
pub(super) fn close(
    config: &Config,
    connections: &mut [AgentConnection],
    parts: &[(usize, Range<u64>)],
) -> Result<(), RestoreError> {
    const CLOSE_TASK: &str = "close its memory";
    let lease = config.snapshot.freeze_timeout;
    let lease_us = u64::try_from(lease.as_micros()).unwrap_or(u64::MAX);
    for connection in &*connections {
        connection.send_request(&AgentRequest::Freeze { lease_us }, FREEZE_TASK)?;
    }
    for (connection, (server, part)) in connections.iter_mut().zip(parts) {
        let (server, base) = (*server, *server as u64 * config.layout.share_size());
        let addresses = base..base + config.layout.share_size();
        match connection.receive_response(FREEZE_TASK, lease)? {
            AgentResponse::Frozen { shut: true } if *part != addresses => {
                return Err(RestoreError::NotWhole { server, addresses });
            }
            AgentResponse::Frozen { .. } => {}
            other => return Err(connection.unexpected(&other).into()),
        }
    }
    let asked: Vec<_> = connections
        .iter()
        .map(|connection| connection.send_request(&AgentRequest::Shut, CLOSE_TASK))
        .collect();
    let mut cause = None;
    // The servers that are closed, or may be: a server whose agent refused is not.
    let mut closed = Vec::with_capacity(connections.len());
    for (connection, asked) in connections.iter_mut().zip(asked) {
        let response = asked.and_then(|()| {
            match connection.receive_response(CLOSE_TASK, config.snapshot.timeout)? {
                AgentResponse::Shut => Ok(()),
                other => Err(connection.unexpected(&other)),
            }
        });
        if !matches!(response, Err(AgentError::Refused { .. })) {
            closed.push(connection);
        }
        if let Err(error) = response {
            cause = cause.or(Some(error));
        }
    }
    let Some(cause) = cause else { return Ok(()) };
    let mut servers = Vec::new();
    for connection in closed {
        if !matches!(
            connection.request(&AgentRequest::Cancel, "open its memory again"),
            Ok(AgentResponse::Cancelled { open: true })
        ) {
            servers.push(connection.server());
        }
    }
    Err(if servers.is_empty() {
        cause.into()
    } else {
        RestoreError::CutShort {
            cause: cause.into(),
            servers,
        }
    })
}
