//! dsmd's way to the memory that it lost: it asks the agent of its machine, which has the
//! snapshots.

use crate::agent_protocol::{AgentError, Link};
use crate::agent_protocol::{Answer, Ask};
use dsm_config::Config;
use std::time::Duration;

/// How long it may take to find, check and fetch a snapshot.
const RECOVERY: Duration = Duration::from_secs(3600);

/// Lets the agent of server `index` restore that server's part of the newest whole snapshot.
/// Returns the snapshot's name and its cut time in ns since 1970.
///
/// # Errors
/// When the agent cannot be reached, or has found no snapshot that is sound. The memory then waits
/// still.
pub fn recover(config: &Config, index: usize) -> Result<(String, u64), AgentError> {
    const TASK: &str = "restore the newest snapshot";
    let mut link = Link::open(config, index)?;
    link.ask(&Ask::Recover, TASK)?;
    match link.answer(TASK, RECOVERY)? {
        Answer::Recovered { name, cut_time, .. } => Ok((name, cut_time)),
        other => Err(link.unexpected(&other)),
    }
}
