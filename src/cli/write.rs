//! `dsmctl write`: values, a file or standard input into the memory.

use super::arguments::Write;
use super::failure::Failure;
use super::output;
use super::progress::Progress;
use super::session::{CHUNK, Session};
use super::value::ValueType;
use serde_json::json;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;

/// Bytes of unknown number, in steps.
struct Input {
    name: String,
    file: File,
    /// Bytes to come, known of a regular file.
    total: Option<u64>,
}

pub(super) fn run(write: &Write, session: &Session) -> Result<(), Failure> {
    let standard_input = write.data == ["-"] || write.file.as_deref() == Some(Path::new("-"));
    let length = if standard_input {
        if write.kind.is_some() {
            let message = "standard input is written as it is: leave out --type, or give the values as arguments";
            return Err(Failure::Usage(message.to_owned()));
        }
        stream(Input::stdin()?, write.address, session)?
    } else if let Some(path) = &write.file {
        stream(Input::open(path)?, write.address, session)?
    } else {
        let kind = write.kind.unwrap_or(ValueType::Text);
        let bytes = kind.encode(&write.data).map_err(Failure::Usage)?;
        session.client.write(write.address, &bytes)?;
        bytes.len() as u64
    };
    if session.json {
        output::print_json(&json!({ "address": write.address, "length": length }))
    } else {
        Ok(())
    }
}

impl Input {
    fn stdin() -> Result<Self, Failure> {
        let name = "standard input";
        let descriptor = io::stdin().as_fd().try_clone_to_owned();
        let file = File::from(descriptor.map_err(|error| Failure::input_output(name, error))?);
        Ok(Self::new(name.to_owned(), file))
    }

    fn open(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Ok(Self::new(name, file)),
            Err(error) => Err(Failure::NoInput { path: name, error }),
        }
    }

    fn new(name: String, mut file: File) -> Self {
        // Files of /proc are regular and say that they are empty.
        let size = file
            .metadata()
            .ok()
            .filter(|metadata| metadata.is_file() && metadata.len() > 0);
        // Standard input may have been read in part by whoever ran this.
        let total = size.and_then(|metadata| {
            file.stream_position()
                .ok()
                .map(|at| metadata.len().saturating_sub(at))
        });
        Self { name, file, total }
    }
}

/// Writes the input at `address`, and returns how many bytes it had.
fn stream(mut input: Input, address: u64, session: &Session) -> Result<u64, Failure> {
    session.check(address, input.total.unwrap_or(0))?;
    let room = session.client.size() - address;
    let mut progress = Progress::new(input.total);
    let mut buffer = Vec::new();
    loop {
        let done = progress.done();
        let failed = |failure: Failure| failure.after("written", done, input.total);
        // One byte where nothing fits any more, to see whether the input has ended.
        let wanted = CHUNK.min(room - done).max(1);
        buffer.clear();
        let count = input.file.by_ref().take(wanted).read_to_end(&mut buffer);
        let count =
            count.map_err(|error| failed(Failure::input_output(&input.name, error)))? as u64;
        if count == 0 {
            return Ok(done);
        }
        if done == room {
            return Err(Failure::TooMuchInput {
                input: input.name,
                written: done,
                end: address + done,
            });
        }
        session
            .client
            .write(address + done, &buffer)
            .map_err(|error| failed(error.into()))?;
        progress.advance(count);
    }
}
