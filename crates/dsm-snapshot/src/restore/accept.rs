//! Opening memory that waits for a restore, as zeros.

use crate::agent_protocol::{AgentConnection, AgentError};
use crate::agent_protocol::{AgentRequest, AgentResponse};
use dsm_config::Config;

/// Opens memory that waits for a restore, as zeros: that of `server`, or of every server. Returns
/// for each server its new incarnation, or why its memory was not opened.
#[must_use]
pub fn accept_empty(
    config: &Config,
    server: Option<usize>,
) -> Vec<(usize, Result<u64, AgentError>)> {
    let servers = server.map_or(0..config.layout.server_count(), |server| server..server + 1);
    let accept = |server| {
        let mut connection = AgentConnection::open(config, server)?;
        match connection.request(&AgentRequest::Accept, "begin with zeros")? {
            AgentResponse::Committed { incarnation } => Ok(incarnation),
            other => Err(connection.unexpected(&other)),
        }
    };
    servers.map(|server| (server, accept(server))).collect()
}
