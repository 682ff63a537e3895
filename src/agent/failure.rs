//! Why dsm-snapshot fails, and its exit code for that, after `sysexits(3)`.

use dsm_config::{ConfigError, IdentityError, UntrustedAddress};
use dsm_core::net::hint;
use dsm_snapshot::{AgentError, CreateError};
use std::io;
use std::net::SocketAddr;

/// Why dsm-snapshot failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotFailure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Untrusted(#[from] UntrustedAddress),
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Create(#[from] CreateError),
    #[error("listen on {address}: {source}{}", hint(.source))]
    Listen { address: String, source: io::Error },
    #[error(
        "the service manager listens for this agent on {0}, which other machines can reach, and \
         every machine that reaches it can read and write the memory: set trusted_network = true \
         in [security] if all of them may, else let the socket unit listen on a loopback address"
    )]
    UntrustedSocket(SocketAddr),
    #[error("{0}")]
    System(io::Error),
}

impl SnapshotFailure {
    /// The number in dsm-snapshot(8), EXIT STATUS.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Identity(IdentityError::Range { .. }) => 64,
            Self::Config(_) | Self::Identity(_) | Self::Untrusted(_) | Self::UntrustedSocket(_) => {
                78
            }
            Self::Agent(error) => error.exit_code(),
            Self::Create(error) => error.exit_code(),
            Self::System(_) => 70,
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => 77,
            Self::Listen { .. } => 69,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dsm_snapshot::{HeaderError, WriteError};
    use std::collections::BTreeSet;
    use std::io::ErrorKind;
    use std::time::Duration;

    const ADDRESS: &str = "127.0.0.1:7412";

    fn agents() -> Vec<AgentError> {
        let (address, message, task) = (|| ADDRESS.to_owned(), String::new, "answer");
        let lost = || io::Error::from(ErrorKind::ConnectionReset);
        vec![
            AgentError::NoAddress { server: 0 },
            AgentError::Unreachable {
                server: 0,
                address: address(),
                source: lost(),
            },
            AgentError::TimedOut {
                server: 0,
                address: address(),
                task,
                timeout: Duration::ZERO,
            },
            AgentError::Lost {
                server: 0,
                address: address(),
                task,
                source: lost(),
            },
            AgentError::Malformed {
                server: 0,
                address: address(),
                message: message(),
            },
            AgentError::UnderWay { message: message() },
            AgentError::Refused {
                server: 0,
                address: address(),
                message: message(),
            },
        ]
    }

    fn failures() -> Vec<SnapshotFailure> {
        let path = || "/dsm".into();
        let system = |kind: ErrorKind| WriteError::System {
            action: "write",
            path: path(),
            source: kind.into(),
        };
        let listen = |kind: ErrorKind| SnapshotFailure::Listen {
            address: ADDRESS.to_owned(),
            source: kind.into(),
        };
        let created = [
            CreateError::Missing {
                missing: agents(),
                n: 7,
                possible: false,
            },
            CreateError::Write(WriteError::UnderWay(path())),
            CreateError::Write(WriteError::Exists(path())),
            CreateError::Write(system(ErrorKind::StorageFull)),
            CreateError::Write(system(ErrorKind::PermissionDenied)),
            CreateError::Header(HeaderError::Magic),
            CreateError::System(String::new()),
        ];
        let created = created
            .into_iter()
            .chain(agents().into_iter().map(CreateError::Agent));
        let others = [
            IdentityError::Range {
                index: 1,
                n: 1,
                path: path(),
            }
            .into(),
            IdentityError::Interfaces(ErrorKind::Other.into()).into(),
            listen(ErrorKind::AddrInUse),
            listen(ErrorKind::PermissionDenied),
            SnapshotFailure::System(ErrorKind::Other.into()),
        ];
        created.map(SnapshotFailure::from).chain(others).collect()
    }

    #[test]
    fn the_man_page_lists_the_exit_codes() {
        let page = include_str!("../../man/dsm-snapshot.8");
        let listed: BTreeSet<u8> = page
            .lines()
            .filter_map(|line| line.strip_prefix(".It ")?.parse().ok())
            .collect();
        let mut all: BTreeSet<u8> = failures().iter().map(SnapshotFailure::exit_code).collect();
        all.insert(0);
        assert_eq!(listed, all);
    }
}
