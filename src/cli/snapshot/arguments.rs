//! The command line of `dsmctl snapshot`. What is said here in a line each, `man/dsmctl-snapshot.1`
//! says in full; a test holds the two together.

// The doc comments are the help text, where backticks would stand as they are.
#![allow(clippy::doc_markdown)]

use crate::cli::arguments::Range;
use crate::cli::negative;
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::{Args, Subcommand, ValueHint};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Snapshot {
    /// Take a snapshot now and write it on this machine
    Create(Create),
    /// List the snapshots, the oldest first
    List(List),
    /// Show what a snapshot is of
    Show(Show),
    /// Read all of each file and say whether it is what was written
    Verify(Verify),
    /// Put the bytes of a snapshot back into the live memory
    Restore(Restore),
    /// Write the plain bytes of the memory as they were
    Export(Export),
    /// Print the ranges that differ from another snapshot, or from the live memory; exit 1 when any
    /// do
    Diff(Diff),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Create {
    /// Go on without servers that cannot be reached
    #[arg(long)]
    pub(in crate::cli) allow_partial: bool,
    /// Write this file; without it one with the time in its name, in snapshot.directory
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in crate::cli) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct List {
    /// Look here; without it in snapshot.directory of the configuration
    #[arg(long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
    pub(in crate::cli) directory: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Show {
    /// A snapshot, here or in snapshot.directory
    #[arg(value_parser = path(), value_hint = ValueHint::FilePath)]
    pub(in crate::cli) file: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Verify {
    /// Snapshots, here or in snapshot.directory
    #[arg(required = true, value_parser = path(), value_hint = ValueHint::FilePath)]
    pub(in crate::cli) file: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Restore {
    /// A snapshot, here or in snapshot.directory
    #[arg(value_parser = path(), value_hint = ValueHint::FilePath)]
    pub(in crate::cli) file: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) range: Range,
    /// Restore also while somebody writes
    #[arg(long)]
    pub(in crate::cli) force: bool,
    /// Do not ask
    #[arg(long)]
    pub(in crate::cli) yes: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Export {
    /// A snapshot, here or in snapshot.directory
    #[arg(value_parser = path(), value_hint = ValueHint::FilePath)]
    pub(in crate::cli) file: PathBuf,
    /// Where the bytes go; - is standard output
    #[arg(value_parser = path(), value_hint = ValueHint::FilePath)]
    pub(in crate::cli) raw: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) range: Range,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Diff {
    /// A snapshot, here or in snapshot.directory
    #[arg(value_parser = path(), value_hint = ValueHint::FilePath)]
    pub(in crate::cli) file: PathBuf,
    /// Another; without it the live memory
    #[arg(value_parser = path(), value_hint = ValueHint::FilePath)]
    pub(in crate::cli) other: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) range: Range,
}

fn path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().map(negative::unmark_path)
}
