//! The command line of `dsmctl snapshot`. Each option has one line of help here and its full
//! description in `man/dsmctl-snapshot.1`; a test compares the two.

// The doc comments are the help text, in which backticks would appear literally.
#![allow(clippy::doc_markdown)]

use crate::cli::arguments::RangeOption;
use crate::cli::negative;
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, Subcommand, ValueHint};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SnapshotSubcommand {
    /// Take a snapshot now and write it to a file on this machine
    Create(CreateArgs),
    /// List the snapshots, the oldest first
    List(ListArgs),
    /// Show time, layout, servers and sizes of a snapshot
    Show(ShowArgs),
    /// Read each file completely and check that it is undamaged
    Verify(VerifyArgs),
    /// Write the contents of a snapshot back to the live memory
    Restore(RestoreArgs),
    /// Write the contents of the memory to a file or standard output
    Export(ExportArgs),
    /// Print the ranges that differ from another snapshot or from the live memory; exit 1 if there
    /// are any
    Diff(DiffArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CreateArgs {
    /// Continue without servers that cannot be reached
    #[arg(long)]
    pub(in crate::cli) allow_partial: bool,
    /// Write this file; the default has the time in its name, in snapshot.directory
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// List this directory; the default is snapshot.directory of the configuration
    #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
    pub(in crate::cli) directory: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ShowArgs {
    /// A snapshot, in the current folder or in snapshot.directory
    #[arg(value_parser = path(), value_hint = ValueHint::FilePath)]
    pub(in crate::cli) file: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VerifyArgs {
    /// Snapshots, in the current folder or in snapshot.directory
    #[arg(required = true, value_parser = path(), value_hint = ValueHint::FilePath)]
    pub(in crate::cli) file: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RestoreArgs {
    /// A snapshot, in the current folder or in snapshot.directory
    #[arg(value_parser = path(), value_hint = ValueHint::FilePath)]
    pub(in crate::cli) file: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) range: RangeOption,
    /// Restore even while other programs write
    #[arg(long)]
    pub(in crate::cli) force: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    pub(in crate::cli) yes: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    /// A snapshot, in the current folder or in snapshot.directory
    #[arg(value_parser = path(), value_hint = ValueHint::FilePath)]
    pub(in crate::cli) file: PathBuf,
    /// The file to write; - is standard output
    #[arg(value_parser = path(), value_hint = ValueHint::FilePath)]
    pub(in crate::cli) raw: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) range: RangeOption,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DiffArgs {
    /// A snapshot, in the current folder or in snapshot.directory
    #[arg(value_parser = path(), value_hint = ValueHint::FilePath)]
    pub(in crate::cli) file: PathBuf,
    /// Another snapshot; the default is the live memory
    #[arg(value_parser = path(), value_hint = ValueHint::FilePath)]
    pub(in crate::cli) other: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) range: RangeOption,
}

fn path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().map(negative::unmark_path)
}
