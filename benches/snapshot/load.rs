//! The load program of `make bench-snapshot`: each writer sends one request at a time to dsm or to
//! Redis, and measures its latency.
//!
//! `fill` writes random bytes everywhere and ends. `write` prints `{"ready":true}` when every
//! writer is connected. It then reads commands from standard input, one per line, and prints one
//! line of JSON for each: `begin` opens a window, `end` closes it and reports the requests that
//! began in it, and `between FROM TO` reports those of them that were in flight in that part of it.
//! The writers also write between windows. `write` ends at the end of its input.
//!
//! Times are in nanoseconds of `CLOCK_MONOTONIC`, so that they compare with those of other
//! programs.

mod target;
mod writer;

use clap::{Args, Parser, Subcommand};
use dsm_config::Config;
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use target::BenchTarget;
use writer::{Sample, Writers};

/// How many of the slowest requests of a window are reported individually.
const SLOWEST: usize = 10;

#[derive(Parser)]
#[command(about = "The load program of `make bench-snapshot`")]
struct SnapshotLoadArguments {
    #[command(subcommand)]
    command: SnapshotLoadCommand,
}

#[derive(Subcommand)]
enum SnapshotLoadCommand {
    /// Write random bytes everywhere
    Fill {
        #[command(flatten)]
        options: TargetOptions,
    },
    /// Write 64 bytes at random addresses until standard input ends
    Write {
        #[command(flatten)]
        options: TargetOptions,
        /// Writers, each with a connection; with dsm, writer i writes to server i modulo N
        #[arg(long, default_value_t = 3)]
        connections: usize,
        /// Writes per second of each writer; without it, as many as possible
        #[arg(long)]
        rate: Option<u32>,
    },
}

#[derive(Args)]
struct TargetOptions {
    /// mcomp.cfg of a dsm memory
    #[arg(long, required_unless_present = "redis")]
    config: Option<PathBuf>,
    /// Address of a Redis server
    #[arg(long, conflicts_with = "config", requires = "size")]
    redis: Option<SocketAddr>,
    /// Bytes that the load stores in Redis
    #[arg(long)]
    size: Option<u64>,
}

impl TargetOptions {
    fn target(&self) -> Result<BenchTarget, String> {
        match (&self.config, self.redis) {
            (Some(path), _) => {
                let config = Config::load(path).map_err(|error| error.to_string())?;
                Ok(BenchTarget::Dsm(config.layout))
            }
            (None, Some(address)) => Ok(BenchTarget::Redis {
                address,
                size: self.size.unwrap_or_default(),
            }),
            (None, None) => Err("neither --config nor --redis was given".into()),
        }
    }
}

fn main() -> ExitCode {
    let done = match SnapshotLoadArguments::parse().command {
        SnapshotLoadCommand::Fill { options } => {
            options.target().and_then(|target| writer::fill(&target))
        }
        SnapshotLoadCommand::Write {
            options,
            connections,
            rate,
        } => options
            .target()
            .and_then(|target| write(&target, connections, rate)),
    };
    if let Err(message) = done {
        eprintln!("snapshot-load: {message}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn write(target: &BenchTarget, connections: usize, rate: Option<u32>) -> Result<(), String> {
    let mut writers = Writers::start(target, connections, rate)?;
    let mut window = Vec::new();
    print_line(&json!({ "ready": true }))?;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| format!("standard input: {error}"))?;
        let result = match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["begin"] => json!({ "from": writers.begin()? }),
            ["end"] => {
                let (from, to);
                (from, to, window) = writers.end()?;
                let mut summary = summary(&mut window);
                summary["from"] = from.into();
                summary["to"] = to.into();
                summary
            }
            ["between", from, to] => {
                let [from, to] = [from, to].map(|time| {
                    time.parse()
                        .map_err(|_| format!("{line:?}: expected two times"))
                });
                summary(&mut overlapping(&window, from?, to?))
            }
            _ => {
                return Err(format!(
                    "unknown command {line:?}: expected begin, end, or between FROM TO"
                ));
            }
        };
        print_line(&result)?;
    }
    Ok(())
}

fn print_line(value: &Value) -> Result<(), String> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{value}")
        .and_then(|()| output.flush())
        .map_err(|error| format!("standard output: {error}"))
}

/// The requests that were in flight at some time between the two instants.
fn overlapping(samples: &[Sample], from: u64, to: u64) -> Vec<Sample> {
    samples
        .iter()
        .filter(|sample| sample.begin <= to && sample.begin + sample.nanoseconds >= from)
        .copied()
        .collect()
}

/// The number of the samples and their latencies. Sorts them, the slowest first.
fn summary(samples: &mut [Sample]) -> Value {
    samples.sort_unstable_by_key(|sample| std::cmp::Reverse(sample.nanoseconds));
    // The latency that one in `one_in` requests exceeds.
    let exceeded_by = |one_in: usize| {
        samples
            .get(samples.len() / one_in)
            .map(|sample| microseconds(sample.nanoseconds))
    };
    let slowest: Vec<Value> = samples.iter().take(SLOWEST).map(describe).collect();
    json!({
        "requests": samples.len(),
        "longest_us": exceeded_by(usize::MAX),
        "p99_9_us": exceeded_by(1000),
        "median_us": exceeded_by(2),
        "slowest": slowest,
    })
}

fn describe(sample: &Sample) -> Value {
    json!({ "begin": sample.begin, "us": microseconds(sample.nanoseconds), "connection": sample.connection })
}

#[allow(clippy::cast_precision_loss)] // only of a latency above 104 days
fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}
