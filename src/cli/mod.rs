//! dsmctl: the command line over [`crate::Client`].
//!
//! One file for each command, and one for each thing that several need. `failure` alone chooses exit codes.

mod arguments;
mod atomic;
mod change;
mod configuration;
mod failure;
mod format;
mod hexdump;
mod human;
mod locate;
mod number;
mod output;
mod ping;
mod progress;
mod read;
mod servers;
mod session;
mod status;
mod table;
mod value;
mod write;

use arguments::{Arguments, Command, Configuration};
use clap::{CommandFactory, Parser};
use failure::{Failure, exit};
use session::Session;
use std::process::ExitCode;

/// Runs dsmctl with the arguments of this process. The exit code is one of those in dsmctl(1).
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            return answer_usage(&error).into();
        }
    };
    match run(&arguments) {
        Ok(code) => code.into(),
        Err(failure) => {
            if !matches!(failure, Failure::OutputClosed) {
                output::complain(&failure);
            }
            failure.code().into()
        }
    }
}

/// The whole command line: every command with its options, for completions and for the test of the man page.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Says what clap has to say, and returns the exit code. Help and version are errors too, to clap.
fn answer_usage(error: &clap::Error) -> u8 {
    let text = error.render().to_string();
    match text.strip_prefix("error: ") {
        Some(message) => output::complain(message.trim_end()),
        // When the stream does not take the text, there is nobody left to tell.
        None => drop(error.print()),
    }
    if error.use_stderr() { exit::USAGE } else { 0 }
}

fn run(arguments: &Arguments) -> Result<u8, Failure> {
    let global = &arguments.global;
    let session = || Session::open(global);
    match &arguments.command {
        Command::Write(write) => write::run(write, &session()?)?,
        Command::Read(read) => read::run(read, &session()?)?,
        Command::Fill(fill) => change::fill(fill, &session()?)?,
        Command::Copy(copy) => change::copy(copy, &session()?)?,
        Command::Cas(cas) => {
            if !atomic::cas(cas, &session()?)? {
                return Ok(exit::MISMATCH);
            }
        }
        Command::Add(add) => atomic::add(add, &session()?)?,
        Command::Swap(swap) => atomic::swap(swap, &session()?)?,
        Command::Locate(locate) => locate::run(locate, &session()?)?,
        Command::Status => status::run(&session()?)?,
        Command::Ping(ping) => ping::run(ping, &session()?)?,
        Command::Config(Configuration::Check) => configuration::check(global)?,
        Command::Config(Configuration::Show) => configuration::show(global)?,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut command(), "dsmctl", &mut script);
            output::print(&String::from_utf8_lossy(&script))?;
        }
    }
    Ok(0)
}
