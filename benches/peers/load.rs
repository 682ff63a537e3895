//! The load program of `make bench`, and the raw servers as the baseline of the comparison.
//!
//! `serve` runs a raw server. `fill` writes all of a server's memory and reads it back. `run` sends
//! requests for a while and prints one line of JSON: the number of replies, their latencies, and
//! the processor time and memory of the server. `idle` opens connections and sends nothing. Only
//! the protocol differs between servers.

mod connection;
mod dsm;
mod memcached;
mod nbd;
mod plan;
mod protocol;
mod raw;
mod receive_buffer;
mod redis;
mod run;
mod send_buffer;
mod serve;
mod server_process;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dsm_benches::pattern::{BytePattern, MAX_SIZE};
use plan::{Mix, Shape};
use protocol::{PeerTarget, Protocol};
use run::{LoadSettings, Measurement};
use serde_json::{Value, json};
use server_process::ServerProcess;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The minimum distance of two slots: a cache line. Closer slots would share cache lines, and
/// memcached would need gigabytes for its keys.
const MIN_STRIDE: usize = 64;

#[derive(Parser)]
#[command(about = "The load program of `make bench`")]
struct PeersArguments {
    #[command(subcommand)]
    command: PeersCommand,
}

#[derive(Subcommand)]
enum PeersCommand {
    /// Run a raw server
    Serve {
        #[arg(long)]
        address: SocketAddr,
        #[arg(long)]
        memory: u64,
        /// Threads that share the connections; 0: one thread per connection
        #[arg(long, default_value_t = 0)]
        threads: usize,
    },
    /// Write all of the memory and read it back
    Fill {
        #[command(flatten)]
        options: ServerOptions,
    },
    /// Send requests and time them
    Run {
        #[command(flatten)]
        options: ServerOptions,
        #[arg(long)]
        mix: Mix,
        #[arg(long)]
        connections: usize,
        /// Threads that share the connections
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// Seconds before the measurement
        #[arg(long)]
        warm_up: f64,
        /// Seconds of the measurement
        #[arg(long)]
        seconds: f64,
        /// Process id of the server
        #[arg(long)]
        pid: u32,
    },
    /// Open connections, send nothing, and measure their cost to the server
    Idle {
        #[command(flatten)]
        options: ServerOptions,
        #[arg(long)]
        connections: usize,
        #[arg(long)]
        seconds: f64,
        #[arg(long)]
        pid: u32,
    },
}

#[derive(Args)]
struct ServerOptions {
    /// Protocol of the server
    protocol: ServerProtocol,
    #[arg(long)]
    address: SocketAddr,
    /// mcomp.cfg, for dsmd
    #[arg(long)]
    config: Option<PathBuf>,
    /// Bytes of the server's memory
    #[arg(long)]
    memory: u64,
    /// Bytes that a request reads or writes
    #[arg(long)]
    size: usize,
    /// Requests in flight on each connection
    #[arg(long)]
    depth: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum ServerProtocol {
    Raw,
    Dsm,
    Redis,
    Memcached,
    Nbd,
}

impl PeersCommand {
    /// The options of the server; `None` for [`Self::Serve`], which is one.
    fn options(&self) -> Option<&ServerOptions> {
        match self {
            Self::Serve { .. } => None,
            Self::Fill { options } | Self::Run { options, .. } | Self::Idle { options, .. } => {
                Some(options)
            }
        }
    }
}

impl ServerOptions {
    fn shape<'p>(&self, pattern: &'p BytePattern) -> Result<Shape<'p>, String> {
        let stride = self.size.max(MIN_STRIDE) as u64;
        let shape = Shape {
            pattern,
            stride,
            slots: self.memory / stride,
            size: self.size,
        };
        if self.size > MAX_SIZE || !self.size.is_power_of_two() || shape.slots < 2 {
            return Err(format!(
                "--size {}: expected a power of two, at most {MAX_SIZE} and half of --memory",
                self.size
            ));
        }
        // A session of dsm allows at most 64 requests in flight.
        if !(1..=64).contains(&self.depth) {
            return Err(format!("--depth {}: expected 1 to 64", self.depth));
        }
        Ok(shape)
    }
}

fn main() -> ExitCode {
    let command = PeersArguments::parse().command;
    let done = match (&command, command.options().map(|options| options.protocol)) {
        (
            PeersCommand::Serve {
                address,
                memory,
                threads,
            },
            _,
        ) => serve::serve(*address, *memory, *threads),
        (_, Some(ServerProtocol::Dsm)) => run_command::<dsm::Dsm>(&command),
        (_, Some(ServerProtocol::Redis)) => run_command::<redis::Redis>(&command),
        (_, Some(ServerProtocol::Memcached)) => run_command::<memcached::Memcached>(&command),
        (_, Some(ServerProtocol::Nbd)) => run_command::<nbd::Nbd>(&command),
        (_, Some(ServerProtocol::Raw) | None) => run_command::<raw::Raw>(&command),
    };
    if let Err(message) = done {
        eprintln!("peers-load: {message}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run_command<P: Protocol>(command: &PeersCommand) -> Result<(), String> {
    let Some(options) = command.options() else {
        return Ok(());
    };
    let pattern = BytePattern::new(1);
    let shape = options.shape(&pattern)?;
    let target = PeerTarget {
        address: options.address,
        config: options.config.clone(),
        stride: shape.stride,
    };
    match command {
        PeersCommand::Fill { .. } => run::fill::<P>(&target, shape, options.depth),
        PeersCommand::Run {
            mix,
            connections,
            threads,
            warm_up,
            seconds,
            pid,
            ..
        } => {
            let load = LoadSettings {
                shape,
                mix: *mix,
                connections: *connections,
                depth: options.depth,
                threads: *threads,
                warm_up: duration(*warm_up)?,
                window: duration(*seconds)?,
            };
            run::check::<P>(&target, shape, options.depth)?;
            run::run::<P>(&target, &load, *pid)
                .map(|measured| println!("{}", summary(&measured, load.window)))
        }
        PeersCommand::Idle {
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
        PeersCommand::Serve { .. } => Ok(()),
    }
}

fn duration(seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds).map_err(|error| format!("{seconds} s: {error}"))
}

fn summary(measured: &Measurement, window: Duration) -> Value {
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

#[allow(clippy::cast_precision_loss)] // counts above 2^53 do not occur
fn ratio(count: u64, by: f64) -> f64 {
    count as f64 / by
}
