//! The agent: gives a master the segment of this machine, and takes a restore.

mod files;
mod listen;
mod recover;
mod restore;
mod seats;
mod send;
mod session;
mod verified;

pub(super) use listen::{Listening, serve};

use crate::config::Config;
use crate::log::LogGate;
use verified::{Turn, Verified};

/// What every session of an agent needs.
pub(super) struct Agent {
    pub(super) config: Config,
    /// The server whose segment it has.
    pub(super) index: u32,
    /// For lines about masters that are refused or lost, and for lines about those that were served: a flood of the first
    /// does not hide the second.
    pub(super) refused: LogGate,
    pub(super) served: LogGate,
    /// The snapshots that were checked for masters and servers.
    verified: Verified,
    /// For checking all of a file.
    checks: Turn,
    /// For what is shorter: to list the directory, and to open a file, which reads its index.
    looks: Turn,
}

impl Agent {
    pub(super) fn new(config: Config, index: u32) -> Self {
        let (refused, served) = (LogGate::default(), LogGate::default());
        let (checks, looks) = (Turn::default(), Turn::default());
        Self { config, index, refused, served, verified: Verified::default(), checks, looks }
    }
}
