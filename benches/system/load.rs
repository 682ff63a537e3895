//! The clients of what `make bench` measures beyond one server; each prints one line of JSON.
//!
//! `servers` reads the same bytes from memories of several servers, `local` works on a server of
//! its own host with and without TCP, `allocate` does what a start of dsmd cannot do without.

mod allocate;
mod contents;
mod local;
mod servers;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(about = "The clients of what `make bench` measures beyond one server")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Time the reading of whole memories, over TCP, by turns
    Servers {
        /// mcomp.cfg of each
        #[arg(long, required = true)]
        config: Vec<PathBuf>,
        #[arg(long)]
        rounds: usize,
        /// Reads in each turn
        #[arg(long)]
        reads: u32,
    },
    /// Time requests of one thread in the server's shared memory and over TCP, and bare memory, by
    /// turns
    Local {
        #[arg(long)]
        config: PathBuf,
        /// A new file for bare memory, in /dev/shm; it is gone at once
        #[arg(long)]
        object: PathBuf,
        #[arg(long)]
        rounds: usize,
        /// Seconds of each turn
        #[arg(long)]
        seconds: f64,
    },
    /// Make a file, allocate its bytes, and tell the service manager that this is done
    Allocate {
        #[arg(long)]
        file: PathBuf,
        #[arg(long)]
        size: i64,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Servers {
            config,
            rounds,
            reads,
        } => servers::measure(&config, rounds, reads),
        Command::Local {
            config,
            object,
            rounds,
            seconds,
        } => Duration::try_from_secs_f64(seconds)
            .map_err(|error| format!("{seconds} s: {error}"))
            .and_then(|window| local::measure(&config, &object, rounds, window)),
        Command::Allocate { file, size } => allocate::allocate(&file, size),
    };
    match done {
        Ok(found) => {
            println!("{found}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("system-load: {message}");
            ExitCode::FAILURE
        }
    }
}
