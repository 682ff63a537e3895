//! `dsmctl write`: writes values, a file or standard input to the memory.

use super::arguments::WriteArgs;
use super::context::{CHUNK, CommandContext};
use super::failure::CliFailure;
use super::output;
use super::progress::Progress;
use super::value::ValueType;
use serde_json::json;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;

/// A file or standard input, whose length may be unknown.
struct InputStream {
    name: String,
    file: File,
    /// The bytes that remain; known only for a regular file.
    total: Option<u64>,
}

pub(super) fn run(write: &WriteArgs, context: &CommandContext) -> Result<(), CliFailure> {
    let standard_input = write.data == ["-"] || write.file.as_deref() == Some(Path::new("-"));
    let length = if standard_input {
        if write.kind.is_some() {
            let message = "--type does not apply to standard input, which is written unchanged: \
                           leave out --type, or give the values as arguments";
            return Err(CliFailure::Usage(message.to_owned()));
        }
        stream(InputStream::stdin()?, write.address, context)?
    } else if let Some(path) = &write.file {
        stream(InputStream::open(path)?, write.address, context)?
    } else {
        let kind = write.kind.unwrap_or(ValueType::Text);
        let bytes = kind.encode(&write.data).map_err(CliFailure::Usage)?;
        context.client.write(write.address, &bytes)?;
        bytes.len() as u64
    };
    if context.json {
        output::print_json(&json!({ "address": write.address, "length": length }))
    } else {
        Ok(())
    }
}

impl InputStream {
    fn stdin() -> Result<Self, CliFailure> {
        let name = "standard input";
        let descriptor = io::stdin().as_fd().try_clone_to_owned();
        let file = File::from(descriptor.map_err(|error| CliFailure::input_output(name, error))?);
        Ok(Self::new(name.to_owned(), file))
    }

    fn open(path: &Path) -> Result<Self, CliFailure> {
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Ok(Self::new(name, file)),
            Err(error) => Err(CliFailure::NoInput { path: name, error }),
        }
    }

    fn new(name: String, mut file: File) -> Self {
        // Files of /proc are regular files of size 0, although they have contents.
        let size = file
            .metadata()
            .ok()
            .filter(|metadata| metadata.is_file() && metadata.len() > 0);
        // The parent process may have read a part of standard input.
        let total = size.and_then(|metadata| {
            file.stream_position()
                .ok()
                .map(|at| metadata.len().saturating_sub(at))
        });
        Self { name, file, total }
    }
}

/// Writes the whole input at `address`, and returns its length.
fn stream(
    mut input: InputStream,
    address: u64,
    context: &CommandContext,
) -> Result<u64, CliFailure> {
    context.check(address, input.total.unwrap_or(0))?;
    let room = context.client.size() - address;
    let mut progress = Progress::new(input.total);
    let mut buffer = Vec::new();
    loop {
        let done = progress.done();
        let failed = |failure: CliFailure| failure.after("written", done, input.total);
        // At the end of the memory, one byte tells whether the input has ended too.
        let wanted = CHUNK.min(room - done).max(1);
        buffer.clear();
        let count = input.file.by_ref().take(wanted).read_to_end(&mut buffer);
        let count =
            count.map_err(|error| failed(CliFailure::input_output(&input.name, error)))? as u64;
        if count == 0 {
            return Ok(done);
        }
        if done == room {
            return Err(CliFailure::TooMuchInput {
                input: input.name,
                written: done,
                end: address + done,
            });
        }
        context
            .client
            .write(address + done, &buffer)
            .map_err(|error| failed(error.into()))?;
        progress.advance(count);
    }
}
