//! The load program of `make bench` for whole systems. Each command prints one line of JSON.
//!
//! `servers` reads the same bytes from memories with different numbers of servers. `local` uses a
//! server on the same host, with and without TCP. `library` measures the library's blocking calls
//! beside a bare loop on a socket. `allocate` allocates memory as dsmd does at its
//! start.

mod allocate;
mod bare;
mod contents;
mod library;
mod local;
mod servers;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(about = "The load program of `make bench` for whole systems")]
struct SystemLoadArguments {
    #[command(subcommand)]
    command: SystemLoadCommand,
}

#[derive(Subcommand)]
enum SystemLoadCommand {
    /// Measure reads of whole memories over TCP, in turn
    Servers {
        /// mcomp.cfg of each memory
        #[arg(long, required = true)]
        config: Vec<PathBuf>,
        #[arg(long)]
        rounds: usize,
        /// Reads per round and memory
        #[arg(long)]
        reads: u32,
    },
    /// Measure requests of one thread in the server's shared memory and over TCP, and accesses to
    /// plain memory, in turn
    Local {
        #[arg(long)]
        config: PathBuf,
        /// New file in /dev/shm for the plain memory, which is unlinked at once
        #[arg(long)]
        object: PathBuf,
        #[arg(long)]
        rounds: usize,
        /// Seconds of each measurement
        #[arg(long)]
        seconds: f64,
    },
    /// Measure blocking calls of the library over TCP, in turn
    Library {
        #[arg(long)]
        config: PathBuf,
        #[arg(long)]
        cells: library::LibraryCells,
        /// The address of a Redis server, to measure its client beside the calls
        #[arg(long)]
        redis: Option<String>,
        #[arg(long)]
        rounds: usize,
        /// Seconds of each measurement
        #[arg(long)]
        seconds: f64,
    },
    /// Create a file, allocate its bytes, and notify the service manager
    Allocate {
        #[arg(long)]
        file: PathBuf,
        #[arg(long)]
        size: i64,
    },
}

fn main() -> ExitCode {
    let done = match SystemLoadArguments::parse().command {
        SystemLoadCommand::Servers {
            config,
            rounds,
            reads,
        } => servers::measure(&config, rounds, reads),
        SystemLoadCommand::Local {
            config,
            object,
            rounds,
            seconds,
        } => duration(seconds).and_then(|window| local::measure(&config, &object, rounds, window)),
        SystemLoadCommand::Library {
            config,
            cells,
            redis,
            rounds,
            seconds,
        } => duration(seconds)
            .and_then(|window| library::measure(&config, cells, redis.as_deref(), rounds, window)),
        SystemLoadCommand::Allocate { file, size } => allocate::allocate(&file, size),
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

fn duration(seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds).map_err(|error| format!("{seconds} s: {error}"))
}
