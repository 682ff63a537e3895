//! Why a restore did not succeed, and in which state it left the memory.

use crate::ReadError;
use crate::agent_protocol::AgentError;
use dsm_core::layout::OutsideMemory;
use std::ops::Range;

/// Why a restore did not replace the memory, or not all of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The memory is smaller than the one in the snapshot.
    #[error(
        "the snapshot shows {snapshot} bytes, and the memory has {memory}: make the memory larger \
         (k or n in mcomp.cfg), or restore a part with --range ADDRESS LENGTH"
    )]
    TooLarge {
        /// Bytes of the memory in the snapshot.
        snapshot: u64,
        /// Bytes of the live memory.
        memory: u64,
    },
    /// The snapshot lacks servers.
    #[error(
        "the snapshot is partial, without {}: restore the parts that it has with --range ADDRESS \
         LENGTH",
        named(.0)
    )]
    Partial(Vec<usize>),
    /// The range is not in the live memory.
    #[error("the range is not in the live memory: {0}")]
    Outside(#[from] OutsideMemory),
    /// The file is damaged, cannot be read, or lacks a part of the range.
    #[error("nothing was restored, and the memory is as it was: {0}")]
    Read(#[from] ReadError),
    /// A program is writing to the memory.
    #[error(
        "a program is writing to the memory of server {0}, and the restore would overwrite what it \
         writes: stop that program first, or restore with --force"
    )]
    Busy(usize),
    /// The memory of a server is closed, and the restore would replace only a part of it.
    #[error(
        "the memory of server {server} is lost or half restored, and a restore of a part would \
         open the rest as it is: restore all of it, with --range {} {}, or without --range, or \
         begin with zeros first (dsmctl memory accept-empty)",
        .addresses.start, .addresses.end - .addresses.start
    )]
    NotWhole {
        /// The server's index.
        server: usize,
        /// The addresses of its memory.
        addresses: Range<u64>,
    },
    /// An agent failed before the memory was changed.
    #[error("nothing was restored, and the memory is as it was: {0}")]
    Agent(#[from] AgentError),
    /// The restore failed after it had changed the memory.
    #[error(
        "the restore was cut short: {cause}. The memory of {} refuses reads and changes now, \
         except where dsmctl status shows it in use: restore again, or begin with zeros (dsmctl \
         memory accept-empty)", named(.servers)
    )]
    CutShort {
        /// What failed.
        cause: Interruption,
        /// The servers whose memory may be closed.
        servers: Vec<usize>,
    },
}

impl RestoreError {
    /// The exit code of a program that fails with this error, after `sysexits(3)`.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::TooLarge { .. } | Self::Partial(_) | Self::Outside(_) | Self::NotWhole { .. } => {
                65
            }
            Self::Read(error)
            | Self::CutShort {
                cause: Interruption::Read(error),
                ..
            } => error.exit_code(),
            Self::Busy(_) => 75,
            Self::Agent(error)
            | Self::CutShort {
                cause: Interruption::Agent(error),
                ..
            } => error.exit_code(),
        }
    }
}

/// What cut a restore short.
#[derive(Debug, thiserror::Error)]
pub enum Interruption {
    /// The file cannot be read or is damaged, although it was verified before.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An agent failed.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

fn named(servers: &[usize]) -> String {
    let numbers = servers
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    format!(
        "server{} {numbers}",
        if servers.len() == 1 { "" } else { "s" }
    )
}
