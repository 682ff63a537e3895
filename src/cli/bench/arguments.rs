//! The command line of `dsmctl bench`.

// The doc comments are the help text, where backticks would stand as they are.
#![allow(clippy::doc_markdown)]

use super::plan::{Change, MAX_CONNECTIONS, MAX_DEPTH, Path, Pattern};
use crate::cli::arguments::Range;
use crate::cli::number;
use clap::{Args, ValueHint};
use std::time::Duration;

#[derive(Debug, Args)]
pub(in crate::cli) struct Bench {
    #[command(flatten)]
    pub(super) range: Range,
    /// Of 100 requests, this many read; the others change memory, which needs --range
    #[arg(long, value_name = "PERCENT", value_hint = ValueHint::Other, default_value = "100", value_parser = clap::value_parser!(u64).range(0..=100))]
    pub(super) reads: u64,
    /// What the others do: write random bytes, or add 1 to a word
    #[arg(long, value_enum, default_value_t = Change::Write)]
    pub(super) change: Change,
    /// Bytes of a request, up to 1MiB
    #[arg(long, value_name = "LENGTH", value_hint = ValueHint::Other, default_value = "8", value_parser = number::quantity)]
    pub(super) size: u64,
    /// How many connections to each server, each with a thread of its own
    #[arg(long, value_name = "NUMBER", value_hint = ValueHint::Other, default_value = "1", value_parser = clap::value_parser!(u64).range(1..=MAX_CONNECTIONS))]
    pub(super) connections: u64,
    /// How many requests each connection has under way at a time
    #[arg(long, value_name = "NUMBER", value_hint = ValueHint::Other, default_value = "1", value_parser = clap::value_parser!(u64).range(1..=MAX_DEPTH))]
    pub(super) depth: u64,
    /// How long to measure
    #[arg(long, value_name = "DURATION", value_hint = ValueHint::Other, default_value = "10s", value_parser = number::duration)]
    pub(super) duration: Duration,
    /// Measure so many requests instead, on all connections together
    #[arg(long, value_name = "NUMBER", value_hint = ValueHint::Other, conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,
    /// Make requests for so long before, which do not count
    #[arg(long, value_name = "DURATION", value_hint = ValueHint::Other, default_value = "0s", value_parser = number::duration_or_none)]
    pub(super) warm_up: Duration,
    /// In which order the addresses come
    #[arg(long, value_enum, default_value_t = Pattern::Random)]
    pub(super) pattern: Pattern,
    /// Another number, other addresses; the same one, the same again
    #[arg(long, value_name = "NUMBER", value_hint = ValueHint::Other, default_value = "0")]
    pub(super) seed: u64,
    /// Which way requests take: that of mcomp.cfg, TCP, or the shared memory of servers on this
    /// machine
    #[arg(long, value_enum, default_value_t = Path::Auto)]
    pub(super) path: Path,
    /// Show also how many requests took how long
    #[arg(long)]
    pub(super) histogram: bool,
}
