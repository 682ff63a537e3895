//! The agent: gives a master the segment of this machine, and takes a restore.

mod files;
mod listen;
mod recover;
mod restore;
mod send;
mod session;

pub(super) use listen::{Listening, serve};

use crate::config::Config;

/// What every session of an agent needs.
pub(super) struct Agent {
    pub(super) config: Config,
    /// The server whose segment it has.
    pub(super) index: u32,
}
