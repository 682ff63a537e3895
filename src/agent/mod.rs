//! dsm-snapshot: the agent, which sends the segment of this machine to a master and takes restores,
//! and the master.

mod admission;
mod arguments;
mod failure;
mod files;
mod listen;
mod master_handler;
mod recover;
mod restore;
mod run;
mod send;
mod verified_files;

pub use arguments::command;
pub use run::main;

use crate::logging::LogRateLimit;
use dsm_config::Config;
use verified_files::{SerialLock, VerifiedFiles};

/// The state that the handlers of all masters share.
struct Agent {
    config: Config,
    /// The server whose segment the agent handles.
    index: u32,
    /// The rate limits for log lines: one for masters that are refused or lost, one for masters
    /// that were served, so that a flood of the first does not suppress the second.
    refused: LogRateLimit,
    served: LogRateLimit,
    /// The results of checking snapshot files.
    verified_files: VerifiedFiles,
    /// Held while all of a file is checked.
    full_checks: SerialLock,
    /// Held for shorter work: listing the directory, and opening a file, which reads its index.
    brief_checks: SerialLock,
}

impl Agent {
    fn new(config: Config, index: u32) -> Self {
        let (refused, served) = (LogRateLimit::default(), LogRateLimit::default());
        let (full_checks, brief_checks) = (SerialLock::default(), SerialLock::default());
        Self {
            config,
            index,
            refused,
            served,
            verified_files: VerifiedFiles::default(),
            full_checks,
            brief_checks,
        }
    }
}
