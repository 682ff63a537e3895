//! Why dsm-snapshot ends, and the exit code that says so, after `sysexits(3)`.

use super::super::{AgentError, CreateError, WriteError};
use crate::config::{ConfigError, IdentityError, UntrustedAddress};
use std::io;

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
    #[error("listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
    #[error("{0}")]
    System(io::Error),
}

impl Failure {
    /// The number in dsm-snapshot(8), EXIT STATUS.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Identity(IdentityError::Range { .. }) => 64,
            Self::Config(_) | Self::Identity(_) | Self::Untrusted(_) | Self::Agent(AgentError::NoAddress { .. }) => 78,
            Self::Agent(error) | Self::Create(CreateError::Agent(error)) => agent(error),
            Self::Create(CreateError::Missing { .. }) => 69,
            Self::Create(CreateError::Write(WriteError::UnderWay(_))) => 75,
            Self::Create(CreateError::Write(_) | CreateError::Directory(_)) => 74,
            Self::Create(_) | Self::System(_) => 70,
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => 77,
            Self::Listen { .. } => 69,
        }
    }
}

fn agent(error: &AgentError) -> u8 {
    match error {
        AgentError::UnderWay { .. } => 75,
        AgentError::Garbage { .. } => 76,
        _ => 69,
    }
}
