//! The command line of dsmd.

use crate::layout::MAX_SERVERS;
use ::log::LevelFilter;
use clap::{CommandFactory, Parser};
use std::path::PathBuf;

/// Serves this machine's share of a distributed shared memory.
#[derive(Debug, Parser)]
#[command(name = "dsmd", version, long_about = None)]
pub(super) struct Arguments {
    /// The configuration file [default: /etc/mcomp.cfg]
    #[arg(long, value_name = "FILE", env = "DSM_CONFIG")]
    pub(super) config: Option<PathBuf>,

    /// This server's index in the network map, 0 to N-1 [default: the server whose address this machine has]
    #[arg(long, value_name = "INDEX", value_parser = index)]
    pub(super) index: Option<usize>,

    /// Throw away what lies under the segment's name, and start with empty memory
    #[arg(long)]
    pub(super) reset: bool,

    /// Detach from the terminal and log to syslog; for hosts without systemd
    #[arg(long, requires = "pid_file")]
    pub(super) daemonize: bool,

    /// With --daemonize: the file that gets the process id
    #[arg(long, value_name = "FILE", requires = "daemonize")]
    pub(super) pid_file: Option<PathBuf>,

    /// Have the dsmd with this process id read its configuration again, and fail if it refuses that
    #[arg(long, value_name = "PID", conflicts_with_all = ["index", "reset", "daemonize", "pid_file", "log_level"])]
    pub(super) reload: Option<u32>,

    /// The least important messages to log: off, error, warn, info, debug or trace [default: log.level of the configuration]
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    pub(super) log_level: Option<LevelFilter>,
}

/// Reads a server's index.
pub(crate) fn index(text: &str) -> Result<usize, String> {
    let index = text.parse().ok().filter(|index| *index < MAX_SERVERS);
    index.ok_or_else(|| format!("allowed is a whole number from 0 to {}", MAX_SERVERS - 1))
}

/// Reads a level of log messages.
pub(crate) fn level(text: &str) -> Result<LevelFilter, String> {
    text.parse().map_err(|_| "allowed is off, error, warn, info, debug or trace".to_owned())
}

/// The command line as clap knows it, for completions and for the tests of the man page.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Says what clap has to say, and returns the exit code. Help and version are errors too, to clap.
pub(crate) fn answer_usage(program: &str, error: &clap::Error) -> u8 {
    let text = error.render().to_string();
    match text.strip_prefix("error: ") {
        Some(message) => eprint!("{program}: {message}"),
        None => print!("{text}"),
    }
    if error.use_stderr() { 64 } else { 0 }
}
