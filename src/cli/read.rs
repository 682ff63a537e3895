//! `dsmctl read`: a range of the memory, shown or saved.

use super::arguments::Read;
use super::failure::Failure;
use super::format::{Format, Printer};
use super::human;
use super::output::{self, Output};
use super::progress::Progress;
use super::session::{CHUNK, Session};
use serde_json::json;
use std::io::{self, IsTerminal};
use std::path::Path;

pub(super) fn run(read: &Read, session: &Session) -> Result<(), Failure> {
    let path = read
        .output
        .as_deref()
        .filter(|path| *path != Path::new("-"));
    let format = choose(read, path.is_some(), session.json)?;
    session.check(read.address, read.length)?;
    let on_terminal = path.is_none() && io::stdout().is_terminal();
    let progress = if on_terminal {
        Progress::hidden()
    } else {
        Progress::new(Some(read.length))
    };
    carry(
        read,
        path,
        Printer::new(format, session.json, read.address, read.length),
        progress,
        session,
    )?;
    match path {
        Some(path) if session.json => output::print_json(
            &json!({ "address": read.address, "length": read.length, "output": path.to_string_lossy() }),
        ),
        _ => Ok(()),
    }
}

/// The format to show, which must go with the other options.
fn choose(read: &Read, to_file: bool, json: bool) -> Result<Format, Failure> {
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
        let message =
            "--json goes with --format json or a number type: leave out one of the two options";
        return Err(Failure::Usage(message.to_owned()));
    }
    match format {
        Format::Number(number) if !read.length.is_multiple_of(number.size() as u64) => {
            Err(Failure::Usage(format!(
                "the length is {}, and a {} takes {}: make it a multiple",
                human::count_of_bytes(read.length),
                number.name(),
                number.size()
            )))
        }
        _ => Ok(format),
    }
}

fn carry(
    read: &Read,
    path: Option<&Path>,
    mut printer: Printer,
    mut progress: Progress,
    session: &Session,
) -> Result<(), Failure> {
    // At most 8 MiB, which fits.
    #[allow(clippy::cast_possible_truncation)]
    let length_of_step = |done: u64| CHUNK.min(read.length - done) as usize;
    let mut buffer = vec![0; length_of_step(0)];
    session.client.read_into(read.address, &mut buffer)?;
    // Opened only now: a file that exists is not emptied for a server that is down.
    let mut output = path.map_or_else(Output::stdout, Output::file)?;
    output.put(|writer| printer.begin(writer))?;
    while !buffer.is_empty() {
        let failed = |done, failure: Failure| failure.after("read", done, Some(read.length));
        output
            .put(|writer| printer.chunk(&buffer, writer))
            .map_err(|failure| failed(progress.done(), failure))?;
        progress.advance(buffer.len() as u64);
        let done = progress.done();
        // Never more than before: only the last step is shorter.
        buffer.truncate(length_of_step(done));
        let filled = session.client.read_into(read.address + done, &mut buffer);
        filled.map_err(|error| failed(done, error.into()))?;
    }
    output.put(|writer| printer.finish(writer))?;
    output.finish()
}
