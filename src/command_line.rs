//! The parsers and the error output that the command lines of several programs share.

use dsm_core::layout::MAX_SERVERS;
use log::LevelFilter;

/// Parses the index of a server.
pub(crate) fn index(text: &str) -> Result<usize, String> {
    let index = text.parse().ok().filter(|index| *index < MAX_SERVERS);
    index.ok_or_else(|| format!("give a whole number from 0 to {}", MAX_SERVERS - 1))
}

/// Parses a log level.
pub(crate) fn level(text: &str) -> Result<LevelFilter, String> {
    text.parse()
        .map_err(|_| "give off, error, warn, info, debug or trace".to_owned())
}

/// Prints the message of clap and returns the exit code. clap reports `--help` and `--version` as
/// errors too; these go to standard output and exit with 0.
pub(crate) fn report_parse_error(program: &str, error: &clap::Error) -> u8 {
    let text = error.render().to_string();
    match text.strip_prefix("error: ") {
        Some(message) => eprint!("{program}: {message}"),
        None => print!("{text}"),
    }
    if error.use_stderr() { 64 } else { 0 }
}
