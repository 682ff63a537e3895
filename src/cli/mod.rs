//! dsmctl: the command line over [`dsm_client::Client`].
//!
//! One file for each command, and one for each thing that several need. `failure` alone chooses
//! exit codes.

mod arguments;
mod atomic;
mod bench;
mod change;
mod completions;
mod configuration;
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
mod session;
mod snapshot;
mod status;
mod table;
mod value;
mod write;

// For the tests and benchmarks of this repository.
#[doc(hidden)]
pub use bench::{histogram, random};

use arguments::{Arguments, Command, Configuration, Memory};
use clap::CommandFactory;
use dsm_core::sys::file_size;
use failure::{Failure, exit};
use session::Session;
use std::io::{self, Write};
use std::process::ExitCode;

/// Runs dsmctl with the arguments of this process. The exit code is one of those in dsmctl(1).
#[must_use]
pub fn main() -> ExitCode {
    file_size::ignore_signal();
    let arguments = match Arguments::read(std::env::args_os()) {
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

/// The whole command line: every command with its options, for completions and for the test of the
/// man page.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Says what clap has to say, and returns the exit code. Help and version are errors too, to clap.
fn answer_usage(error: &clap::Error) -> u8 {
    let text = error
        .render()
        .to_string()
        .replace(negative::MARK_IN_TEXT, "");
    if let Some(message) = text.strip_prefix("error: ") {
        output::complain(message.trim_end());
        return exit::USAGE;
    }
    let printed = error.print().and_then(|()| io::stdout().flush());
    match printed {
        _ if error.use_stderr() => exit::USAGE,
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let failure = Failure::input_output("standard output", error);
            output::complain(&failure);
            failure.code()
        }
        _ => 0,
    }
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
        Command::Status(status) => status::run(status, &session()?)?,
        Command::Ping(ping) => ping::run(ping, &session()?)?,
        Command::Bench(bench) => bench::run(bench, &session()?)?,
        Command::Snapshot(command) => return snapshot::run(command, global),
        Command::Memory(Memory::AcceptEmpty(accept)) => memory::accept_empty(accept, global)?,
        Command::Config(Configuration::Check) => configuration::check(global)?,
        Command::Config(Configuration::Show) => configuration::show(global)?,
        Command::Completions { shell, program } => completions::run(*shell, *program)?,
    }
    Ok(0)
}
