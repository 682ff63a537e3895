//! The agent: gives a master the segment of this machine, and takes a restore.

mod files;
mod listen;
mod recover;
mod restore;
mod send;
mod session;

pub(super) use listen::{Listening, serve};

use crate::config::Config;
use crate::log::LogGate;

/// What every session of an agent needs.
pub(super) struct Agent {
    pub(super) config: Config,
    /// The server whose segment it has.
    pub(super) index: u32,
    /// For lines about masters that are refused or lost, and for lines about those that were served: a flood of the first
    /// does not hide the second.
    pub(super) refused: LogGate,
    pub(super) served: LogGate,
}

impl Agent {
    pub(super) fn new(config: Config, index: u32) -> Self {
        Self { config, index, refused: LogGate::default(), served: LogGate::default() }
    }
}
