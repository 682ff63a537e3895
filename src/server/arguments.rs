//! The command line of dsmd.

use crate::command_line::{index, level};
use clap::{CommandFactory, Parser};
use log::LevelFilter;
use std::path::PathBuf;

/// Serves this machine's share of a distributed shared memory.
#[derive(Debug, Parser)]
#[command(name = "dsmd", version, long_about = None)]
pub(super) struct Arguments {
    /// The configuration file [default: /etc/mcomp.cfg]
    #[arg(long, value_name = "FILE", env = "DSM_CONFIG")]
    pub(super) config: Option<PathBuf>,

    /// This server's index in the network map, 0 to N-1 [default: the server whose address this
    /// machine has]
    #[arg(long, value_name = "INDEX", value_parser = index)]
    pub(super) index: Option<usize>,

    /// Delete the memory that has the segment's name, and start with empty memory
    #[arg(long)]
    pub(super) reset: bool,

    /// Detach from the terminal and log to syslog; for hosts without systemd
    #[arg(long, requires = "pid_file")]
    pub(super) daemonize: bool,

    /// With --daemonize: the file that gets the process id
    #[arg(long, value_name = "FILE", requires = "daemonize")]
    pub(super) pid_file: Option<PathBuf>,

    /// Have the dsmd with this process id reload its configuration, and fail if it refuses
    #[arg(long, value_name = "PID", conflicts_with_all = ["index", "reset", "daemonize", "pid_file", "log_level"])]
    pub(super) reload: Option<u32>,

    /// The least important messages to log: off, error, warn, info, debug or trace [default:
    /// log.level of the configuration]
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    pub(super) log_level: Option<LevelFilter>,
}

/// The command line as clap knows it, for completions and for the tests of the man page.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}
