//! dsm-snapshot: the agent, which gives a master the segment of this machine and takes a restore,
//! and the master.

mod arguments;
mod failure;
mod files;
mod listen;
mod recover;
mod restore;
mod run;
mod seats;
mod send;
mod session;
mod verified;

pub use arguments::command;
pub use run::main;

use crate::logging::LogGate;
use dsm_config::Config;
use verified::{Turn, Verified};

/// What every session of an agent needs.
struct Agent {
    config: Config,
    /// The server whose segment it has.
    index: u32,
    /// For lines about masters that are refused or lost, and for lines about those that were
    /// served: a flood of the first does not hide the second.
    refused: LogGate,
    served: LogGate,
    /// The snapshots that were checked for masters and servers.
    verified: Verified,
    /// For checking all of a file.
    checks: Turn,
    /// For what is shorter: to list the directory, and to open a file, which reads its index.
    looks: Turn,
}

impl Agent {
    fn new(config: Config, index: u32) -> Self {
        let (refused, served) = (LogGate::default(), LogGate::default());
        let (checks, looks) = (Turn::default(), Turn::default());
        Self {
            config,
            index,
            refused,
            served,
            verified: Verified::default(),
            checks,
            looks,
        }
    }
}
