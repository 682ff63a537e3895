//! What the command lines of all programs have in common.

use dsm_core::layout::MAX_SERVERS;
use log::LevelFilter;

/// Reads a server's index.
pub(crate) fn index(text: &str) -> Result<usize, String> {
    let index = text.parse().ok().filter(|index| *index < MAX_SERVERS);
    index.ok_or_else(|| format!("allowed is a whole number from 0 to {}", MAX_SERVERS - 1))
}

/// Reads a level of log messages.
pub(crate) fn level(text: &str) -> Result<LevelFilter, String> {
    text.parse()
        .map_err(|_| "allowed is off, error, warn, info, debug or trace".to_owned())
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
