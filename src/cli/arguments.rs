//! The command line of dsmctl. Each option has one line of help here and its full description in
//! `man/dsmctl.1`; a test compares the two.

// The doc comments are the help text, in which backticks would appear literally.
#![allow(clippy::doc_markdown)]

use super::bench::BenchArgs;
use super::completions::CompletionProgram;
use super::format::Format;
use super::negative;
use super::number;
use super::snapshot::SnapshotSubcommand;
use super::value::ValueType;
use crate::help;
use clap::{ArgAction, Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Read and write the memory that dsmd servers share
#[derive(Debug, Parser)]
#[command(name = "dsmctl", version, disable_help_subcommand = true)]
#[command(
    after_help = "ADDRESS and LENGTH are decimal, 0x hexadecimal, or have a unit: 4096, 0x1000, 4KiB, 1MiB+16.\n\
                        dsmctl(1) has examples and the exit codes."
)]
pub(super) struct CliArguments {
    #[command(flatten)]
    pub(super) global: GlobalOptions,
    #[command(subcommand)]
    pub(super) command: CliCommand,
}

impl CliArguments {
    /// Parses a command line, whose first word is the name of the program.
    pub(super) fn read(line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(negative::mark(help::replace_help_command::<Self>(line)))
    }
}

/// The options that every command takes.
#[derive(Debug, Args)]
pub(super) struct GlobalOptions {
    /// The configuration file; the default is $DSM_CONFIG, else /etc/mcomp.cfg
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) config: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Wait this long for the servers; the default is client.timeout of the configuration
    #[arg(
        long,
        global = true,
        value_name = "DURATION",
        value_hint = ValueHint::Other,
        value_parser = number::duration
    )]
    pub(super) timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(super) enum CliCommand {
    /// Write bytes, a file or standard input
    Write(WriteArgs),
    /// Read a range
    Read(ReadArgs),
    /// Set every byte of a range to one value
    Fill(FillArgs),
    /// Copy a range to another, on any servers
    Copy(CopyArgs),
    /// Compare and swap a word and print the old value; exit 1 if that was not EXPECTED
    Cas(CasArgs),
    /// Add a number to a word and print the old value
    Add(AddArgs),
    /// Replace a word and print the old value
    Swap(SwapArgs),
    /// Show which servers hold a range, and where
    Locate(LocateArgs),
    /// Show every server's state and counters
    Status(StatusArgs),
    /// Measure the round-trip time to one server or to all
    Ping(PingArgs),
    /// Send requests to the servers and report their throughput and latency
    Bench(BenchArgs),
    /// Take, show, compare and restore snapshots; see dsmctl-snapshot(1)
    #[command(subcommand)]
    Snapshot(SnapshotSubcommand),
    /// Decide how servers that lost their memory continue
    #[command(subcommand)]
    Memory(MemoryCommand),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
        /// The program that the script completes
        #[arg(value_enum, default_value_t = CompletionProgram::Dsmctl)]
        program: CompletionProgram,
    },
}

#[derive(Debug, Args)]
pub(super) struct WriteArgs {
    /// The address of the first byte
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) address: u64,
    /// The values to write; a single - is standard input, except after --
    #[arg(
        required_unless_present = "file",
        conflicts_with = "file",
        value_parser = clap::value_parser!(OsString)
    )]
    pub(super) data: Vec<OsString>,
    /// Write the bytes of this file; - is standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) file: Option<PathBuf>,
    /// The type of DATA: numbers are little-endian, text is the bytes as given
    #[arg(
        long = "type",
        value_name = "TYPE",
        value_enum,
        conflicts_with = "file"
    )]
    pub(super) kind: Option<ValueType>,
}

#[derive(Debug, Args)]
pub(super) struct ReadArgs {
    /// The address of the first byte
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) address: u64,
    /// The number of bytes
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) length: u64,
    /// The output format; the default is hexdump on a terminal, raw elsewhere
    #[arg(long, value_enum)]
    pub(super) format: Option<Format>,
    /// Write to this file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct FillArgs {
    /// The address of the first byte
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) address: u64,
    /// The number of bytes
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) length: u64,
    /// The new value of each byte, 0 to 255
    #[arg(value_parser = number::byte, value_hint = ValueHint::Other)]
    pub(super) byte: u8,
}

#[derive(Debug, Args)]
pub(super) struct CopyArgs {
    /// The address of the first byte to copy
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) from: u64,
    /// The address to copy it to
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) to: u64,
    /// The number of bytes
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) length: u64,
}

#[derive(Debug, Args)]
pub(super) struct CasArgs {
    /// The address of the word, a multiple of 8
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) address: u64,
    /// The value that the word must have
    #[arg(value_parser = number::word, value_hint = ValueHint::Other)]
    pub(super) expected: u64,
    /// The value to store in that case
    #[arg(value_parser = number::word, value_hint = ValueHint::Other)]
    pub(super) new: u64,
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    /// The address of the word, a multiple of 8
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) address: u64,
    /// The number to add; a negative number subtracts
    #[arg(value_parser = number::word, value_hint = ValueHint::Other)]
    pub(super) number: u64,
}

#[derive(Debug, Args)]
pub(super) struct SwapArgs {
    /// The address of the word, a multiple of 8
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) address: u64,
    /// The value to store
    #[arg(value_parser = number::word, value_hint = ValueHint::Other)]
    pub(super) number: u64,
}

#[derive(Debug, Args)]
pub(super) struct LocateArgs {
    /// The address of the first byte
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) address: u64,
    /// The number of bytes
    #[arg(value_parser = number::quantity, default_value = "1", value_hint = ValueHint::Other)]
    pub(super) length: u64,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Show all columns, even if the terminal is too narrow for them
    #[arg(long)]
    pub(super) wide: bool,
}

#[derive(Debug, Args)]
pub(super) struct PingArgs {
    /// The server's index; the default is all servers
    #[arg(value_parser = number::index, value_hint = ValueHint::Other)]
    pub(super) server: Option<usize>,
    /// The number of round trips to each server
    #[arg(
        long,
        value_name = "NUMBER",
        value_hint = ValueHint::Other,
        default_value = "1",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    pub(super) count: u32,
}

/// `--range`, for the commands that can work on a part of the memory.
#[derive(Debug, Args)]
pub(super) struct RangeOption {
    /// Use only these addresses
    #[arg(
        long,
        action = ArgAction::Set,
        num_args = 2,
        value_names = ["ADDRESS", "LENGTH"],
        value_hint = ValueHint::Other,
        value_parser = number::quantity
    )]
    range: Option<Vec<u64>>,
}

impl RangeOption {
    /// The address and the length, if the option was given.
    pub(super) fn given(&self) -> Option<(u64, u64)> {
        // clap accepts two values or none.
        self.range
            .as_deref()
            .and_then(|values| Some((*values.first()?, *values.get(1)?)))
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum MemoryCommand {
    /// Let servers that wait for a restore start with zeros instead
    AcceptEmpty(AcceptEmptyArgs),
}

#[derive(Debug, Args)]
pub(super) struct AcceptEmptyArgs {
    /// The server's index; the default is all servers that wait
    #[arg(value_parser = number::index, value_hint = ValueHint::Other)]
    pub(super) server: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check whether the configuration is valid
    Check,
    /// Show every value in effect and its origin
    Show,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<CliArguments, clap::Error> {
        CliArguments::read(line.split_whitespace().map(OsString::from))
    }

    fn written(line: &str) -> WriteArgs {
        match parse(line).unwrap().command {
            CliCommand::Write(mut write) => {
                for data in &mut write.data {
                    *data = negative::unmark(data).to_owned();
                }
                write
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn clap_accepts_the_description_of_the_command_line() {
        <CliArguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn values_may_begin_with_a_minus_and_options_may_come_anywhere() {
        assert_eq!(written("dsmctl write 0 --type i32 -5 7").data, ["-5", "7"]);
        assert_eq!(
            written("dsmctl write 0 -5 -1.5e3 --type f64").data,
            ["-5", "-1.5e3"]
        );
        assert_eq!(
            written("dsmctl write 0 --type f64 -- -inf -5").data,
            ["-inf", "-5"]
        );
        assert_eq!(
            written("dsmctl write 0 --type f64 -inf -0x5 --json").data,
            ["-inf", "-0x5"]
        );
        assert_eq!(written("dsmctl write 0 -").data, ["-"]);
        assert_eq!(written("dsmctl write 0 hello --json").data, ["hello"]);
        for line in [
            "dsmctl add 8 -5",
            "dsmctl add 8 -0x5 --json",
            "dsmctl --timeout 1s add 8 -5",
        ] {
            let CliCommand::Add(add) = parse(line).unwrap().command else {
                panic!("{line}")
            };
            assert_eq!(add.number, 5_u64.wrapping_neg(), "{line}");
        }
    }

    #[test]
    fn a_bad_command_line_is_refused() {
        for line in [
            "dsmctl",
            "dsmctl nonsense",
            "dsmctl write 0",
            "dsmctl write zero hello",
            "dsmctl write 0 hello --file F",
            "dsmctl write 0 --file F --type u8",
            "dsmctl write -5 hello",
            "dsmctl write 0 --tpye u8 1",
            "dsmctl read 0",
            "dsmctl read 0 1 --format nonsense",
            "dsmctl fill 0 1 256",
            "dsmctl fill 0 1 -1",
            "dsmctl add -8 1",
            "dsmctl add 0 --jsn",
            "dsmctl ping --count 0",
            "dsmctl ping -1",
            "dsmctl bench --size 0K",
            "dsmctl bench --connections 0",
            "dsmctl bench --depth 0",
            "dsmctl bench --depth 129",
            "dsmctl bench --reads 101",
            "dsmctl bench --duration 0s",
            "dsmctl bench --count 0",
            "dsmctl bench --count 5 --duration 1s",
            "dsmctl bench --range 0",
            "dsmctl bench --seed -1",
            "dsmctl --timeout 0s status",
            "dsmctl config",
            "dsmctl memory accept-empty -1",
            "dsmctl snapshot",
            "dsmctl snapshot verify",
            "dsmctl snapshot export F",
            "dsmctl snapshot export F RAW --range 0",
            "dsmctl snapshot export F RAW --range 0 -1",
            "dsmctl snapshot diff F --range -1 1",
            "dsmctl snapshot diff F --range 0 1 --range 2 1",
            "dsmctl snapshot list -5",
            "dsmctl completions nonsense",
        ] {
            assert!(parse(line).unwrap_err().use_stderr(), "{line}");
        }
    }
}
