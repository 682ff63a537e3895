//! Why dsm-snapshot ends, and the exit code that says so, after `sysexits(3)`.

use super::super::{AgentError, CreateError};
use crate::config::{ConfigError, IdentityError, UntrustedAddress};
use crate::sys::listening::way_out;
use std::io;
use std::net::SocketAddr;

/// Why dsm-snapshot failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
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
    #[error("listen on {address}: {source}{}", way_out(.source))]
    Listen { address: String, source: io::Error },
    #[error(
        "the service manager listens for this agent on {0}, which other machines can reach, and whoever reaches it can read \
         and write the memory: set trusted_network = true in [security] if all of them may, else let the socket unit \
         listen on a loopback address"
    )]
    UntrustedSocket(SocketAddr),
    #[error("{0}")]
    System(io::Error),
}

impl Failure {
    /// The number in dsm-snapshot(8), EXIT STATUS.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Identity(IdentityError::Range { .. }) => 64,
            Self::Config(_) | Self::Identity(_) | Self::Untrusted(_) | Self::UntrustedSocket(_) => 78,
            Self::Agent(error) => error.exit_code(),
            Self::Create(error) => error.exit_code(),
            Self::System(_) => 70,
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => 77,
            Self::Listen { .. } => 69,
        }
    }
}
