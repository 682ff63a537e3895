//! The load of `make bench`, and the raw servers that everything is compared with.
//!
//! `serve` is such a server. `fill` writes all of a server's memory and reads it back. `run` sends
//! requests for a while and prints one line of JSON: how many were answered, how long they took,
//! and what it cost the server. `idle` opens connections and leaves them alone. All but a server's
//! protocol is the same for every server.

mod dsm;
mod input;
mod lane;
mod memcached;
mod nbd;
mod output;
mod plan;
mod protocol;
mod raw;
mod redis;
mod run;
mod serve;
mod server_process;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dsm_benches::pattern::{MAX_SIZE, Pattern};
use plan::{Mix, Shape};
use protocol::{Protocol, Target};
use run::{Load, Measured};
use serde_json::{Value, json};
use server_process::ServerProcess;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The least distance of two slots, a line of the processor's cache: nearer ones would be the same
/// memory to it, and memcached would need gigabytes for its keys.
const LEAST_STRIDE: usize = 64;

#[derive(Parser)]
#[command(about = "The load of `make bench`")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Be a raw server
    Serve {
        #[arg(long)]
        address: SocketAddr,
        #[arg(long)]
        memory: u64,
        /// Threads that share the connections; 0: a thread for each connection
        #[arg(long, default_value_t = 0)]
        threads: usize,
    },
    /// Write everything and read it back
    Fill {
        #[command(flatten)]
        place: Place,
    },
    /// Send requests and time them
    Run {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        mix: Mix,
        #[arg(long)]
        connections: usize,
        /// Threads, which share the connections
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// Seconds before it counts
        #[arg(long)]
        warm_up: f64,
        /// Seconds for which it counts
        #[arg(long)]
        seconds: f64,
        /// The server
        #[arg(long)]
        pid: u32,
    },
    /// Leave connections alone, and see what they cost the server
    Idle {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        connections: usize,
        #[arg(long)]
        seconds: f64,
        #[arg(long)]
        pid: u32,
    },
}

#[derive(Args)]
struct Place {
    /// What the server speaks
    speaks: Speaks,
    #[arg(long)]
    address: SocketAddr,
    /// mcomp.cfg, for dsmd
    #[arg(long)]
    config: Option<PathBuf>,
    /// Bytes of memory
    #[arg(long)]
    memory: u64,
    /// Bytes of a request
    #[arg(long)]
    size: usize,
    /// Requests under way on each connection
    #[arg(long)]
    depth: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Speaks {
    Raw,
    Dsm,
    Redis,
    Memcached,
    Nbd,
}

impl Command {
    /// Of those that speak to a server.
    fn place(&self) -> Option<&Place> {
        match self {
            Self::Serve { .. } => None,
            Self::Fill { place } | Self::Run { place, .. } | Self::Idle { place, .. } => {
                Some(place)
            }
        }
    }
}

impl Place {
    fn shape<'p>(&self, pattern: &'p Pattern) -> Result<Shape<'p>, String> {
        let stride = self.size.max(LEAST_STRIDE) as u64;
        let shape = Shape {
            pattern,
            stride,
            slots: self.memory / stride,
            size: self.size,
        };
        if self.size > MAX_SIZE || !self.size.is_power_of_two() || shape.slots < 2 {
            return Err(format!(
                "{} bytes: a size is a power of two, at most {MAX_SIZE} and half of the memory",
                self.size
            ));
        }
        // A session of dsm has so many.
        if !(1..=64).contains(&self.depth) {
            return Err(format!("depth {}: there are 1 to 64", self.depth));
        }
        Ok(shape)
    }
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let done = match (&command, command.place().map(|place| place.speaks)) {
        (
            Command::Serve {
                address,
                memory,
                threads,
            },
            _,
        ) => serve::serve(*address, *memory, *threads),
        (_, Some(Speaks::Dsm)) => speak::<dsm::Dsm>(&command),
        (_, Some(Speaks::Redis)) => speak::<redis::Redis>(&command),
        (_, Some(Speaks::Memcached)) => speak::<memcached::Memcached>(&command),
        (_, Some(Speaks::Nbd)) => speak::<nbd::Nbd>(&command),
        (_, Some(Speaks::Raw) | None) => speak::<raw::Raw>(&command),
    };
    if let Err(message) = done {
        eprintln!("peers-load: {message}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn speak<P: Protocol>(command: &Command) -> Result<(), String> {
    let Some(place) = command.place() else {
        return Ok(());
    };
    let pattern = Pattern::new(1);
    let shape = place.shape(&pattern)?;
    let target = Target {
        address: place.address,
        config: place.config.clone(),
        stride: shape.stride,
    };
    match command {
        Command::Fill { .. } => run::fill::<P>(&target, shape, place.depth),
        Command::Run {
            mix,
            connections,
            threads,
            warm_up,
            seconds,
            pid,
            ..
        } => {
            let load = Load {
                shape,
                mix: *mix,
                connections: *connections,
                depth: place.depth,
                threads: *threads,
                warm_up: duration(*warm_up)?,
                window: duration(*seconds)?,
            };
            run::check::<P>(&target, shape, place.depth)?;
            run::run::<P>(&target, &load, *pid)
                .map(|measured| println!("{}", summary(&measured, load.window)))
        }
        Command::Idle {
            connections,
            seconds,
            pid,
            ..
        } => {
            let (before, after) =
                run::idle::<P>(&target, shape, *connections, duration(*seconds)?, *pid)?;
            println!("{}", json!({ "server": server(&before, &after) }));
            Ok(())
        }
        Command::Serve { .. } => Ok(()),
    }
}

fn duration(seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds).map_err(|error| format!("{seconds} s: {error}"))
}

fn summary(measured: &Measured, window: Duration) -> Value {
    let count = measured.latencies.count();
    let microseconds = |one_in| {
        measured
            .latencies
            .all_but(one_in)
            .map(|nanoseconds| ratio(nanoseconds, 1000.0))
    };
    json!({
        "requests": count,
        "per_second": ratio(count, window.as_secs_f64()),
        "p50_us": microseconds(2),
        "p99_us": microseconds(100),
        "p99_9_us": microseconds(1000),
        "longest_us": microseconds(u64::MAX),
        "server_seconds": measured.between.as_secs_f64(),
        "server": server(&measured.before, &measured.after),
    })
}

fn server(before: &ServerProcess, after: &ServerProcess) -> Value {
    json!({ "ticks": after.ticks - before.ticks, "threads": after.threads, "anonymous_bytes": after.anonymous })
}

#[allow(clippy::cast_precision_loss)] // of numbers that would take years to count
fn ratio(count: u64, by: f64) -> f64 {
    count as f64 / by
}
