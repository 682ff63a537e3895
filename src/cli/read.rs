//! `dsmctl read`: prints a range of the memory, or writes it to a file.

use super::arguments::ReadArgs;
use super::context::{CHUNK, CommandContext};
use super::failure::CliFailure;
use super::format::{Format, Printer};
use super::human;
use super::output::{self, OutputStream};
use super::progress::Progress;
use serde_json::json;
use std::io::{self, IsTerminal};
use std::path::Path;

pub(super) fn run(read: &ReadArgs, context: &CommandContext) -> Result<(), CliFailure> {
    let path = read
        .output
        .as_deref()
        .filter(|path| *path != Path::new("-"));
    let format = choose(read, path.is_some(), context.json)?;
    context.check(read.address, read.length)?;
    let on_terminal = path.is_none() && io::stdout().is_terminal();
    let progress = if on_terminal {
        Progress::hidden()
    } else {
        Progress::new(Some(read.length))
    };
    carry(
        read,
        path,
        Printer::new(format, context.json, read.address, read.length),
        progress,
        context,
    )?;
    match path {
        Some(path) if context.json => output::print_json(
            &json!({ "address": read.address, "length": read.length, "output": path.to_string_lossy() }),
        ),
        _ => Ok(()),
    }
}

/// The output format: that of `--format`, or the default. Fails if the other options exclude it.
fn choose(read: &ReadArgs, to_file: bool, json: bool) -> Result<Format, CliFailure> {
    let usual = || {
        let terminal = io::stdout().is_terminal() && read.output.is_none();
        let shown = if terminal {
            Format::Hexdump
        } else {
            Format::Raw
        };
        if json && !to_file {
            Format::Json
        } else {
            shown
        }
    };
    let format = read.format.unwrap_or_else(usual);
    if json
        && !to_file
        && matches!(
            format,
            Format::Hexdump | Format::Raw | Format::Hex | Format::Text
        )
    {
        let message = "--json works only with --format json or a number type: \
                       leave out --json, or change --format";
        return Err(CliFailure::Usage(message.to_owned()));
    }
    match format {
        Format::Number(number) if !read.length.is_multiple_of(number.size() as u64) => {
            Err(CliFailure::Usage(format!(
                "the length is {}, but a {} takes {}: give a multiple of {}",
                human::count_of_bytes(read.length),
                number.name(),
                number.size(),
                number.size()
            )))
        }
        _ => Ok(format),
    }
}

/// Reads the range in steps and prints each one.
fn carry(
    read: &ReadArgs,
    path: Option<&Path>,
    mut printer: Printer,
    mut progress: Progress,
    context: &CommandContext,
) -> Result<(), CliFailure> {
    // At most `CHUNK`, which fits a usize.
    #[allow(clippy::cast_possible_truncation)]
    let length_of_step = |done: u64| CHUNK.min(read.length - done) as usize;
    let mut buffer = vec![0; length_of_step(0)];
    context.client.read_into(read.address, &mut buffer)?;
    // Opened only after the first read, so that an existing file keeps its contents if the servers
    // are down.
    let mut output = path.map_or_else(OutputStream::stdout, OutputStream::file)?;
    output.put(|writer| printer.begin(writer))?;
    while !buffer.is_empty() {
        let failed = |done, failure: CliFailure| failure.after("read", done, Some(read.length));
        output
            .put(|writer| printer.chunk(&buffer, writer))
            .map_err(|failure| failed(progress.done(), failure))?;
        progress.advance(buffer.len() as u64);
        let done = progress.done();
        // Only the last step is shorter, so the buffer never has to grow.
        buffer.truncate(length_of_step(done));
        let filled = context.client.read_into(read.address + done, &mut buffer);
        filled.map_err(|error| failed(done, error.into()))?;
    }
    output.put(|writer| printer.finish(writer))?;
    output.finish()
}
