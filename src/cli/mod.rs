//! dsmctl: the command line over [`dsm_client::Client`].
//!
//! Each command has a file, and so has each concept that several commands share. Only `failure`
//! chooses exit codes.

mod arguments;
mod atomic;
mod bench;
mod change;
mod completions;
mod configuration;
mod context;
mod failure;
mod format;
mod hexdump;
mod human;
mod locate;
mod memory;
mod negative;
mod number;
mod output;
mod ping;
mod progress;
mod read;
mod servers;
mod snapshot;
mod status;
mod table;
mod transfer;
mod value;
mod write;

// Public only for the tests and benchmarks of this repository.
#[doc(hidden)]
pub use bench::{histogram, random};

use arguments::{CliArguments, CliCommand, ConfigCommand, MemoryCommand};
use clap::CommandFactory;
use context::CommandContext;
use dsm_core::sys::file_size;
use failure::{CliFailure, exit};
use std::io::{self, Write};
use std::process::ExitCode;

/// Runs dsmctl with the arguments of this process. The exit code is one of those in dsmctl(1).
#[must_use]
pub fn main() -> ExitCode {
    file_size::ignore_signal();
    let arguments = match CliArguments::read(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => {
            return report_parse_error(&error).into();
        }
    };
    match run(&arguments) {
        Ok(code) => code.into(),
        Err(failure) => {
            if !matches!(failure, CliFailure::OutputClosed) {
                output::print_error(&failure);
            }
            failure.code().into()
        }
    }
}

/// The description of the command line with all commands and options, for shell completions and
/// for the test of the man page.
#[must_use]
pub fn command() -> clap::Command {
    CliArguments::command()
}

/// Prints the message of clap and returns the exit code. clap reports `--help` and `--version` as
/// errors too; these go to standard output and exit with 0.
fn report_parse_error(error: &clap::Error) -> u8 {
    let text = error
        .render()
        .to_string()
        .replace(negative::MARKER_IN_TEXT, "");
    if let Some(message) = text.strip_prefix("error: ") {
        output::print_error(message.trim_end());
        return exit::USAGE;
    }
    let printed = error.print().and_then(|()| io::stdout().flush());
    match printed {
        _ if error.use_stderr() => exit::USAGE,
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let failure = CliFailure::input_output("standard output", error);
            output::print_error(&failure);
            failure.code()
        }
        _ => 0,
    }
}

fn run(arguments: &CliArguments) -> Result<u8, CliFailure> {
    let global = &arguments.global;
    let context = || CommandContext::open(global);
    match &arguments.command {
        CliCommand::Write(write) => write::run(write, &context()?)?,
        CliCommand::Read(read) => read::run(read, &context()?)?,
        CliCommand::Fill(fill) => change::fill(fill, &context()?)?,
        CliCommand::Copy(copy) => change::copy(copy, &context()?)?,
        CliCommand::Cas(cas) => {
            if !atomic::cas(cas, &context()?)? {
                return Ok(exit::MISMATCH);
            }
        }
        CliCommand::Add(add) => atomic::add(add, &context()?)?,
        CliCommand::Swap(swap) => atomic::swap(swap, &context()?)?,
        CliCommand::Locate(locate) => locate::run(locate, &context()?)?,
        CliCommand::Status(status) => status::run(status, &context()?)?,
        CliCommand::Ping(ping) => ping::run(ping, &context()?)?,
        CliCommand::Bench(bench) => bench::run(bench, &context()?)?,
        CliCommand::Snapshot(command) => return snapshot::run(command, global),
        CliCommand::Memory(MemoryCommand::AcceptEmpty(accept)) => {
            memory::accept_empty(accept, global)?;
        }
        CliCommand::Config(ConfigCommand::Check) => configuration::check(global)?,
        CliCommand::Config(ConfigCommand::Show) => configuration::show(global)?,
        CliCommand::Completions { shell, program } => completions::run(*shell, *program)?,
    }
    Ok(0)
}
