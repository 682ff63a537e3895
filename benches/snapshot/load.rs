//! The load of `make bench-snapshot`: writers that send one request after the other and time each,
//! to dsm or to Redis.
//!
//! `fill` writes random bytes everywhere and ends. `write` prints `{"ready":true}` when every
//! writer is connected, then does what it reads from standard input, a command on a line each, and
//! answers each with a line of JSON: `begin` opens a window of time, `end` closes it and tells of
//! the requests that began in it, `between FROM TO` of those among them that were under way in that
//! part of it. The writers go on between windows. End of input ends it.
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
use target::Target;
use writer::{Sample, Writers};

/// How many of the slowest requests of a window are told one by one.
const SLOWEST: usize = 10;

#[derive(Parser)]
#[command(about = "The load of `make bench-snapshot`")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write random bytes everywhere
    Fill {
        #[command(flatten)]
        place: Place,
    },
    /// Write 64 bytes at random places until standard input ends
    Write {
        #[command(flatten)]
        place: Place,
        /// Writers, each with a connection; with dsm the first one writes to the first server, and
        /// so on
        #[arg(long, default_value_t = 3)]
        connections: usize,
        /// Writes per second of each writer; without it, one after the other
        #[arg(long)]
        rate: Option<u32>,
    },
}

#[derive(Args)]
struct Place {
    /// The dsm memory that this mcomp.cfg describes
    #[arg(long, required_unless_present = "redis")]
    config: Option<PathBuf>,
    /// The Redis server at this address
    #[arg(long, conflicts_with = "config", requires = "size")]
    redis: Option<SocketAddr>,
    /// Bytes that Redis shall hold
    #[arg(long)]
    size: Option<u64>,
}

impl Place {
    fn target(&self) -> Result<Target, String> {
        match (&self.config, self.redis) {
            (Some(path), _) => {
                let config = Config::load(path).map_err(|error| error.to_string())?;
                Ok(Target::Dsm(config.layout))
            }
            (None, Some(address)) => Ok(Target::Redis {
                address,
                size: self.size.unwrap_or_default(),
            }),
            (None, None) => Err("neither --config nor --redis was given".into()),
        }
    }
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Fill { place } => place.target().and_then(|target| writer::fill(&target)),
        Command::Write {
            place,
            connections,
            rate,
        } => place
            .target()
            .and_then(|target| write(&target, connections, rate)),
    };
    if let Err(message) = done {
        eprintln!("snapshot-load: {message}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn write(target: &Target, connections: usize, rate: Option<u32>) -> Result<(), String> {
    let mut writers = Writers::start(target, connections, rate)?;
    let mut window = Vec::new();
    say(&json!({ "ready": true }))?;
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| format!("standard input: {error}"))?;
        let answer = match line.split_whitespace().collect::<Vec<_>>()[..] {
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
                let [from, to] =
                    [from, to].map(|time| time.parse().map_err(|_| format!("{line:?}: no time")));
                summary(&mut overlapping(&window, from?, to?))
            }
            _ => {
                return Err(format!(
                    "{line:?} is no command: there are begin, end, and between FROM TO"
                ));
            }
        };
        say(&answer)?;
    }
    Ok(())
}

fn say(value: &Value) -> Result<(), String> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{value}")
        .and_then(|()| output.flush())
        .map_err(|error| format!("standard output: {error}"))
}

/// Those that were under way between the two instants.
fn overlapping(samples: &[Sample], from: u64, to: u64) -> Vec<Sample> {
    samples
        .iter()
        .filter(|sample| sample.begin <= to && sample.begin + sample.nanoseconds >= from)
        .copied()
        .collect()
}

/// How many, how slow. Sorts the samples, the slowest first.
fn summary(samples: &mut [Sample]) -> Value {
    samples.sort_unstable_by_key(|sample| std::cmp::Reverse(sample.nanoseconds));
    // Of the requests, one in so many is slower.
    let slower_are = |one_in: usize| {
        samples
            .get(samples.len() / one_in)
            .map(|sample| microseconds(sample.nanoseconds))
    };
    let slowest: Vec<Value> = samples.iter().take(SLOWEST).map(describe).collect();
    json!({
        "requests": samples.len(),
        "longest_us": slower_are(usize::MAX),
        "p99_9_us": slower_are(1000),
        "median_us": slower_are(2),
        "slowest": slowest,
    })
}

fn describe(sample: &Sample) -> Value {
    json!({ "begin": sample.begin, "us": microseconds(sample.nanoseconds), "connection": sample.connection })
}

#[allow(clippy::cast_precision_loss)] // of a request that takes 104 days
fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}
