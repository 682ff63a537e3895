//! The command line of dsm-snapshot.

use crate::command_line::{index, level};
use clap::{CommandFactory, Parser, Subcommand};
use log::LevelFilter;
use std::path::PathBuf;
use std::time::Duration;

/// Takes snapshots of a distributed shared memory.
#[derive(Debug, Parser)]
#[command(name = "dsm-snapshot", version, long_about = None, disable_help_subcommand = true)]
pub(super) struct SnapshotArguments {
    /// The configuration file [default: /etc/mcomp.cfg]
    #[arg(long, value_name = "FILE", env = "DSM_CONFIG", global = true)]
    pub(super) config: Option<PathBuf>,

    /// This server's index in the network map, 0 to N-1 [default: the server whose address this
    /// machine has]
    #[arg(long, value_name = "INDEX", value_parser = index, global = true)]
    pub(super) index: Option<usize>,

    /// The least important messages to log: off, error, warn, info, debug or trace [default:
    /// log.level of the configuration]
    #[arg(long, value_name = "LEVEL", value_parser = level, global = true)]
    pub(super) log_level: Option<LevelFilter>,

    #[command(subcommand)]
    pub(super) command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum SnapshotCommand {
    /// Give this machine's segment to a master, and take restores
    Agent {
        /// End after this long without a master [default: 30s when systemd started it by its
        /// socket, else never]
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        idle_timeout: Option<Duration>,
    },
    /// Take a snapshot, if this machine is the master
    Create {
        /// Write a file also when servers are missing
        #[arg(long)]
        allow_partial: bool,
        /// The file to write [default: a new one in snapshot.directory of the configuration]
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration =
        dsm_config::parse_duration(text).filter(|duration| *duration >= Duration::from_millis(100));
    duration.ok_or_else(|| "allowed is a duration of at least 100ms, such as 30s".to_owned())
}

/// The command line as clap knows it, for completions and for the tests of the man page.
#[must_use]
pub fn command() -> clap::Command {
    SnapshotArguments::command()
}
