//! Why an agent did not do its part: each message names the agent, and says what to do.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// The task of freezing the memory. An agent that does not do it in time may have a stopped process
/// on its machine, so the hint of the error differs.
pub const FREEZE_TASK: &str = "keep its writers out";

/// The task of taking the bytes of a restore.
pub const RECEIVE_TASK: &str = "take the bytes of the snapshot";

/// Why an agent did not do its task. Each message names the agent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The server has no agent: mcomp.cfg gives it no address.
    #[error(
        "server {server} has no snapshot agent: mcomp.cfg uses the port after the server's for \
         something else. Give the agent an address with `snapshot` in the server's [[server]] \
         table"
    )]
    NoAddress {
        /// The server's index.
        server: usize,
    },
    /// No connection to the agent can be made.
    #[error(
        "the snapshot agent of server {server} ({address}) cannot be reached: {source}. Check that \
         it runs there (systemctl status dsm-snapshot-agent.socket{}) and that the network leads \
         to it", listen_hint(.address)
    )]
    Unreachable {
        /// The server's index.
        server: usize,
        /// The agent's address.
        address: String,
        /// Why it cannot be reached.
        source: io::Error,
    },
    /// The agent did not answer in time.
    #[error(
        "the snapshot agent of server {server} ({address}) did not {task} within {}: {}",
        humantime::format_duration(*.timeout), timeout_hint(.task)
    )]
    TimedOut {
        /// The server's index.
        server: usize,
        /// The agent's address.
        address: String,
        /// What it was to do.
        task: &'static str,
        /// How long it had.
        timeout: Duration,
    },
    /// The connection was lost.
    #[error(
        "the connection with the snapshot agent of server {server} ({address}) was lost while \
         waiting for it to {task}: {source}"
    )]
    Lost {
        /// The server's index.
        server: usize,
        /// The agent's address.
        address: String,
        /// What it was to do.
        task: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The peer sent something that an agent does not send.
    #[error(
        "the program that listens as the snapshot agent of server {server} ({address}) is no \
         snapshot agent, or is broken: {message}"
    )]
    Malformed {
        /// The server's index.
        server: usize,
        /// The agent's address.
        address: String,
        /// What it sent, and what is wrong with that.
        message: String,
    },
    /// Another snapshot or restore has the snapshot lock.
    #[error("{message}")]
    UnderWay {
        /// The text of the agent.
        message: String,
    },
    /// The memory of the server does not wait for a restore.
    #[error("the memory of server {server} is in use, and does not wait for a restore")]
    InUse {
        /// The server's index.
        server: usize,
    },
    /// The agent refused the request.
    #[error("the snapshot agent of server {server} ({address}) refused: {message}")]
    Refused {
        /// The server's index.
        server: usize,
        /// The agent's address.
        address: String,
        /// Why.
        message: String,
    },
}

/// The hint for an agent that did not do `task` in time.
fn timeout_hint(task: &str) -> &'static str {
    if task == FREEZE_TASK {
        "see that no process was stopped there in the middle of a write (the error of dsmctl write \
         names it), that its machine is up and that the network leads to it, or raise \
         snapshot.freeze_timeout in mcomp.cfg"
    } else {
        "see that its machine is up and that the network leads to it, or raise snapshot.timeout in \
         mcomp.cfg"
    }
}

/// The hint for an address that is not on loopback: the packaged socket unit listens on loopback
/// only.
fn listen_hint(address: &str) -> &'static str {
    if address
        .parse()
        .is_ok_and(|address: SocketAddr| address.ip().is_loopback())
    {
        return "";
    }
    ", which also shows where it listens: 127.0.0.1:7412 as packaged, which only its own machine \
     reaches; step 5 in the packaged mcomp.cfg says how to change that"
}

impl AgentError {
    /// The exit code of a program that fails with this error, after `sysexits(3)`.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::InUse { .. } => 65,
            Self::UnderWay { .. } => 75,
            Self::Malformed { .. } => 76,
            Self::NoAddress { .. } => 78,
            _ => 69,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_for_an_agent_that_other_machines_cannot_reach_says_where_the_package_listens() {
        let said = |address: &str| {
            let source = io::ErrorKind::ConnectionRefused.into();
            AgentError::Unreachable {
                server: 1,
                address: address.to_owned(),
                source,
            }
            .to_string()
        };
        for other in ["10.0.0.2:7412", "[2001:db8::1]:7412", "host.example:7412"] {
            assert!(
                said(other).contains("127.0.0.1:7412 as packaged"),
                "{}",
                said(other)
            );
        }
        for own in ["127.0.0.1:7512", "[::1]:7412"] {
            assert!(!said(own).contains("as packaged"), "{}", said(own));
        }
        let config = include_str!("../../../../etc/mcomp.cfg");
        let (_, step) = config.split_once("#   5. ").unwrap();
        let step = step.replace("\n#     ", "");
        assert!(
            step.contains("machine listen where the others can reach it"),
            "{step}"
        );
    }
}
