//! `dsmctl read`: prints a range of the memory, or writes it to a file.

use super::arguments::ReadArgs;
use super::context::CommandContext;
use super::failure::CliFailure;
use super::format::{Format, Printer};
use super::human;
use super::output::{self, OutputStream};
use super::progress::Progress;
use super::transfer::{self, Steps, Transfer, TransferStep, TransferTask};
use dsm_client::{Client, Layout};
use serde_json::json;
use std::io::{self, IsTerminal};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

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
    printer: Printer,
    progress: Progress,
    context: &CommandContext,
) -> Result<(), CliFailure> {
    let steps = Steps::new(context.layout(), Some(read.length));
    // At most `CHUNK`, which fits a usize.
    #[allow(clippy::cast_possible_truncation)]
    let mut buffer = vec![0; steps.first.min(read.length) as usize];
    context.client.read_into(read.address, &mut buffer)?;
    // Opened only after the first read, so that an existing file keeps its contents if the servers
    // are down.
    let mut output = path.map_or_else(OutputStream::stdout, OutputStream::file)?;
    output.put(|writer| printer.begin(writer))?;
    let mut result = PrintedBytes {
        output,
        printer,
        progress,
        failure: None,
    };
    result.print(&buffer)?;
    let done = buffer.len() as u64;
    if done < read.length {
        let rest = RangeReader {
            read,
            layout: context.layout(),
            next: Mutex::new(done),
            has_failed: AtomicBool::new(false),
            printed: Mutex::new(result),
            advanced: Condvar::new(),
        };
        transfer::run(&rest, steps, buffer, context);
        result = rest
            .printed
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
    }
    result.finish()
}

/// The output of the command, and how much of the range it has.
struct PrintedBytes {
    output: OutputStream,
    printer: Printer,
    progress: Progress,
    failure: Option<CliFailure>,
}

impl PrintedBytes {
    fn print(&mut self, data: &[u8]) -> Result<(), CliFailure> {
        self.output.put(|writer| self.printer.chunk(data, writer))?;
        self.progress.advance(data.len() as u64);
        Ok(())
    }

    fn finish(mut self) -> Result<(), CliFailure> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        self.output.put(|writer| self.printer.finish(writer))?;
        self.output.finish()
    }
}

/// The range without its first step. Threads read its steps at the same time, and print them one
/// after the other: what is printed is always the beginning of the range, and the failure of the
/// command is the first one by address.
struct RangeReader<'a> {
    read: &'a ReadArgs,
    layout: &'a Layout,
    /// Where the next step begins.
    next: Mutex<u64>,
    has_failed: AtomicBool,
    printed: Mutex<PrintedBytes>,
    /// More is printed than before, or a failure is known.
    advanced: Condvar,
}

impl Transfer for RangeReader<'_> {
    fn take(&self, connected: &Range<usize>, buffer: &mut [u8]) -> TransferTask {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let position = *next;
        let length = (buffer.len() as u64).min(self.read.length - position);
        if length == 0 || self.has_failed.load(Ordering::Relaxed) {
            return TransferTask::End;
        }
        let servers = transfer::servers(self.layout, self.read.address + position, length);
        if !transfer::is_connected(connected, &servers) {
            return TransferTask::Connect(servers);
        }
        *next += length;
        // At most the length of the buffer.
        #[allow(clippy::cast_possible_truncation)]
        let length = length as usize;
        TransferTask::Move(TransferStep { position, length })
    }

    fn carry(&self, step: TransferStep, data: &mut [u8], client: &Client) {
        let outcome = client.read_into(self.read.address + step.position, data);
        let mut printed = self
            .advanced
            .wait_while(
                self.printed.lock().unwrap_or_else(PoisonError::into_inner),
                |printed| printed.failure.is_none() && printed.progress.done() != step.position,
            )
            .unwrap_or_else(PoisonError::into_inner);
        if printed.failure.is_some() {
            return;
        }
        let outcome = outcome
            .map_err(CliFailure::from)
            .and_then(|()| printed.print(data));
        if let Err(failure) = outcome {
            self.has_failed.store(true, Ordering::Relaxed);
            let total = Some(self.read.length);
            printed.failure = Some(failure.after("read", step.position, total));
        }
        drop(printed);
        self.advanced.notify_all();
    }
}
