//! The command line. What is said here in a line each, `man/dsmctl.1` says in full; a test holds
//! the two together.

// The doc comments are the help text, where backticks would stand as they are.
#![allow(clippy::doc_markdown)]

use super::bench::Bench;
use super::completions::Program;
use super::format::Format;
use super::negative;
use super::number;
use super::snapshot::Snapshot;
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
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

impl Arguments {
    /// Parses a command line, which begins with the program's name.
    pub(super) fn read(line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(negative::mark(help::with_option::<Self>(line)))
    }
}

/// What every command takes.
#[derive(Debug, Args)]
pub(super) struct Global {
    /// The configuration; without it $DSM_CONFIG, else /etc/mcomp.cfg
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) config: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Wait this long for the servers; without it client.timeout of the configuration
    #[arg(long, global = true, value_name = "DURATION", value_hint = ValueHint::Other, value_parser = number::duration)]
    pub(super) timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write bytes, a file or standard input
    Write(Write),
    /// Read a range
    Read(Read),
    /// Set every byte of a range to one value
    Fill(Fill),
    /// Copy a range to another, on any servers
    Copy(Copy),
    /// Compare and swap a word: print the old value; exit 1 when it was not EXPECTED
    Cas(Cas),
    /// Add to a word: print the old value
    Add(Add),
    /// Replace a word: print the old value
    Swap(Swap),
    /// Show which servers hold a range, and where
    Locate(Locate),
    /// Show every server's state and counters
    Status(Status),
    /// Measure the round trip to one server or to all
    Ping(Ping),
    /// Load the servers with requests, and say how many they carry out and how fast
    Bench(Bench),
    /// Take, show, compare and restore snapshots; see dsmctl-snapshot(1)
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Decide what becomes of a memory that was lost
    #[command(subcommand)]
    Memory(Memory),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(Configuration),
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: Shell,
        /// The program whose command line is completed
        #[arg(value_enum, default_value_t = Program::Dsmctl)]
        program: Program,
    },
}

#[derive(Debug, Args)]
pub(super) struct Write {
    /// Where the first byte goes
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) address: u64,
    /// What to write; a single - is standard input, except after --
    #[arg(required_unless_present = "file", conflicts_with = "file", value_parser = clap::value_parser!(OsString))]
    pub(super) data: Vec<OsString>,
    /// Write the bytes of this file; - is standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) file: Option<PathBuf>,
    /// What DATA is: numbers are little-endian, text is the bytes as given
    #[arg(
        long = "type",
        value_name = "TYPE",
        value_enum,
        conflicts_with = "file"
    )]
    pub(super) kind: Option<ValueType>,
}

#[derive(Debug, Args)]
pub(super) struct Read {
    /// The first byte
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) address: u64,
    /// How many bytes
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) length: u64,
    /// How to show them; without it hexdump on a terminal, raw elsewhere
    #[arg(long, value_enum)]
    pub(super) format: Option<Format>,
    /// Write to this file
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(super) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Fill {
    /// The first byte
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) address: u64,
    /// How many bytes
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) length: u64,
    /// What each of them becomes, 0 to 255
    #[arg(value_parser = number::byte, value_hint = ValueHint::Other)]
    pub(super) byte: u8,
}

#[derive(Debug, Args)]
pub(super) struct Copy {
    /// The first byte to copy
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) from: u64,
    /// Where it goes
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) to: u64,
    /// How many bytes
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) length: u64,
}

#[derive(Debug, Args)]
pub(super) struct Cas {
    /// A multiple of 8
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) address: u64,
    /// The value to find there
    #[arg(value_parser = number::word, value_hint = ValueHint::Other)]
    pub(super) expected: u64,
    /// The value to store if it was found
    #[arg(value_parser = number::word, value_hint = ValueHint::Other)]
    pub(super) new: u64,
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// A multiple of 8
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) address: u64,
    /// What to add; negative to subtract
    #[arg(value_parser = number::word, value_hint = ValueHint::Other)]
    pub(super) number: u64,
}

#[derive(Debug, Args)]
pub(super) struct Swap {
    /// A multiple of 8
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) address: u64,
    /// The value to store
    #[arg(value_parser = number::word, value_hint = ValueHint::Other)]
    pub(super) number: u64,
}

#[derive(Debug, Args)]
pub(super) struct Locate {
    /// The first byte
    #[arg(value_parser = number::quantity, value_hint = ValueHint::Other)]
    pub(super) address: u64,
    /// How many bytes
    #[arg(value_parser = number::quantity, default_value = "1", value_hint = ValueHint::Other)]
    pub(super) length: u64,
}

#[derive(Debug, Args)]
pub(super) struct Status {
    /// Show all columns, also when the terminal is too narrow for them
    #[arg(long)]
    pub(super) wide: bool,
}

#[derive(Debug, Args)]
pub(super) struct Ping {
    /// The server's index; without it all servers
    #[arg(value_parser = number::index, value_hint = ValueHint::Other)]
    pub(super) server: Option<usize>,
    /// How many round trips to each
    #[arg(long, value_name = "NUMBER", value_hint = ValueHint::Other, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) count: u32,
}

/// `--range`, for the commands that can do with a part of the memory.
#[derive(Debug, Args)]
pub(super) struct Range {
    /// Only these addresses
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

impl Range {
    /// The address and the length, if they were given.
    pub(super) fn given(&self) -> Option<(u64, u64)> {
        // clap takes two values or none.
        self.range
            .as_deref()
            .and_then(|values| Some((*values.first()?, *values.get(1)?)))
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Memory {
    /// Let servers that wait for a restore go on with zeros
    AcceptEmpty(AcceptEmpty),
}

#[derive(Debug, Args)]
pub(super) struct AcceptEmpty {
    /// The server's index; without it all that wait
    #[arg(value_parser = number::index, value_hint = ValueHint::Other)]
    pub(super) server: Option<usize>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Configuration {
    /// Say whether the configuration is sound
    Check,
    /// Show every value in effect, and where it comes from
    Show,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::read(line.split_whitespace().map(OsString::from))
    }

    fn written(line: &str) -> Write {
        match parse(line).unwrap().command {
            Command::Write(mut write) => {
                for data in &mut write.data {
                    *data = negative::unmark(data).to_owned();
                }
                write
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn values_may_begin_with_a_minus_and_options_stand_anywhere() {
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
            let Command::Add(add) = parse(line).unwrap().command else {
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
