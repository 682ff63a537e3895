//! The command line of `dsmctl bench`, which `man/dsmctl.1` describes in full.

// The doc comments are the help text, in which backticks would appear literally.
#![allow(clippy::doc_markdown)]

use super::plan::{AddressPattern, Change, MAX_CONNECTIONS, MAX_DEPTH, RequestPath};
use crate::cli::arguments::RangeOption;
use crate::cli::number;
use clap::{Args, ValueHint};
use std::time::Duration;

#[derive(Debug, Args)]
pub(in crate::cli) struct BenchArgs {
    #[command(flatten)]
    pub(super) range: RangeOption,
    /// The percentage of requests that read; the others change memory, which needs --range
    #[arg(
        long,
        value_name = "PERCENT",
        value_hint = ValueHint::Other,
        default_value = "100",
        value_parser = clap::value_parser!(u64).range(0..=100)
    )]
    pub(super) reads: u64,
    /// What the other requests do: write random bytes, or add 1 to a word
    #[arg(long, value_enum, default_value_t = Change::Write)]
    pub(super) change: Change,
    /// The number of bytes of a request, up to 1MiB
    #[arg(
        long,
        value_name = "LENGTH",
        value_hint = ValueHint::Other,
        default_value = "8",
        value_parser = number::quantity
    )]
    pub(super) size: u64,
    /// The number of connections to each server; each has its own thread
    #[arg(
        long,
        value_name = "NUMBER",
        value_hint = ValueHint::Other,
        default_value = "1",
        value_parser = clap::value_parser!(u64).range(1..=MAX_CONNECTIONS)
    )]
    pub(super) connections: u64,
    /// The number of requests in flight on each connection
    #[arg(
        long,
        value_name = "NUMBER",
        value_hint = ValueHint::Other,
        default_value = "1",
        value_parser = clap::value_parser!(u64).range(1..=MAX_DEPTH)
    )]
    pub(super) depth: u64,
    /// Measure for this long
    #[arg(
        long,
        value_name = "DURATION",
        value_hint = ValueHint::Other,
        default_value = "10s",
        value_parser = number::duration
    )]
    pub(super) duration: Duration,
    /// Measure this many requests instead, on all connections together
    #[arg(
        long,
        value_name = "NUMBER",
        value_hint = ValueHint::Other,
        conflicts_with = "duration",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub(super) count: Option<u64>,
    /// Make requests for this long before the measurement
    #[arg(
        long,
        value_name = "DURATION",
        value_hint = ValueHint::Other,
        default_value = "0s",
        value_parser = number::duration_or_none
    )]
    pub(super) warm_up: Duration,
    /// The order of the addresses
    #[arg(long, value_enum, default_value_t = AddressPattern::Random)]
    pub(super) pattern: AddressPattern,
    /// The seed of the random addresses: the same seed gives the same addresses
    #[arg(long, value_name = "NUMBER", value_hint = ValueHint::Other, default_value = "0")]
    pub(super) seed: u64,
    /// How requests reach the servers: as mcomp.cfg says, over TCP, or through the shared memory of
    /// servers on this machine
    #[arg(long, value_enum, default_value_t = RequestPath::Auto)]
    pub(super) path: RequestPath,
    /// Also print a histogram of the latencies
    #[arg(long)]
    pub(super) histogram: bool,
}
