//! Recovery of memory that a dsmd lost: dsmd asks the agent of its machine to restore its part of
//! the newest snapshot.

use crate::agent_protocol::{AgentConnection, AgentError};
use crate::agent_protocol::{AgentRequest, AgentResponse};
use dsm_config::Config;
use std::time::Duration;

/// How long the agent may take to find, check and fetch a snapshot.
const RECOVERY: Duration = Duration::from_secs(3600);

/// Asks the agent of server `index` to restore that server's part of the newest whole snapshot.
/// Returns the snapshot's name and its cut time in ns since 1970.
///
/// # Errors
/// When the agent cannot be reached, or found no snapshot that is sound. The memory stays closed
/// then.
pub fn recover(config: &Config, index: usize) -> Result<(String, u64), AgentError> {
    const TASK: &str = "restore the newest snapshot";
    let mut connection = AgentConnection::open(config, index)?;
    connection.send_request(&AgentRequest::Recover, TASK)?;
    match connection.receive_response(TASK, RECOVERY)? {
        AgentResponse::Recovered { name, cut_time, .. } => Ok((name, cut_time)),
        other => Err(connection.unexpected(&other)),
    }
}
