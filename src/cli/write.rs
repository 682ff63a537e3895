//! `dsmctl write`: writes values, a file or standard input to the memory.

use super::arguments::WriteArgs;
use super::context::{CHUNK, CommandContext};
use super::failure::CliFailure;
use super::output;
use super::progress::Progress;
use super::transfer::{self, Steps, Transfer, TransferStep, TransferTask};
use super::value::ValueType;
use dsm_client::{Client, Layout};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of the smallest buffer. A file may grow after its length was found out, and then takes
/// steps of this length.
const MIN_BUFFER: u64 = 64 << 10;

/// How often a thread that waits for input checks whether the transfer has failed. Otherwise a
/// command whose server is down would wait for a producer that is silent.
const CHECK_INTERVAL_MS: u8 = 100;

/// A file or standard input, whose length may be unknown.
struct InputStream {
    name: String,
    file: File,
    /// The bytes that remain at the start; known only for a regular file.
    total: Option<u64>,
    /// Bytes read so far.
    position: u64,
    /// The end was reached, or nothing more is to be read because of a failure.
    has_ended: bool,
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
        Self {
            name,
            file,
            total,
            position: 0,
            has_ended: false,
        }
    }

    /// Fills the buffer up to the end of the input; returns how many bytes it has then. It returns
    /// early when `is_stopped`.
    fn fill(&mut self, buffer: &mut [u8], is_stopped: impl Fn() -> bool) -> io::Result<usize> {
        // A transfer has no other thread before that, and a regular file does not wait.
        let may_block = self.total.is_none() && self.position >= CHUNK;
        let mut filled = 0;
        while filled < buffer.len() && (!may_block || self.wait(&is_stopped)?) {
            match self.file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Waits until a read does not block, or `is_stopped`; returns whether it is not.
    fn wait(&self, is_stopped: impl Fn() -> bool) -> io::Result<bool> {
        while !is_stopped() {
            let mut input = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            match poll(&mut input, PollTimeout::from(CHECK_INTERVAL_MS)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }
}

/// Writes the whole input at `address`, and returns its length.
fn stream(input: InputStream, address: u64, context: &CommandContext) -> Result<u64, CliFailure> {
    let total = input.total;
    context.check(address, total.unwrap_or(0))?;
    let steps = Steps::new(context.layout(), total);
    let writer = InputWriter {
        address,
        total,
        layout: context.layout(),
        input: Mutex::new(input),
        progress: Mutex::new(Progress::new(total)),
        failure: Mutex::new(None),
    };
    // At most `CHUNK`, which fits a usize.
    #[allow(clippy::cast_possible_truncation)]
    let buffer = vec![
        0;
        total
            .map_or(CHUNK, |total| total.max(MIN_BUFFER))
            .min(steps.first) as usize
    ];
    transfer::run(&writer, steps, buffer, context);
    let failure = writer.failure.into_inner();
    if let Some((_, failure)) = failure.unwrap_or_else(PoisonError::into_inner) {
        return Err(failure);
    }
    let input = writer.input.into_inner();
    Ok(input.unwrap_or_else(PoisonError::into_inner).position)
}

/// An input on its way to the memory. Threads read one step after the other, and write several at
/// the same time. After a failure they begin no other step, and those that were begun are carried
/// out: so all bytes before the first failure by address are written.
struct InputWriter<'a> {
    address: u64,
    total: Option<u64>,
    layout: &'a Layout,
    input: Mutex<InputStream>,
    progress: Mutex<Progress>,
    /// The first failure by address, with its position.
    failure: Mutex<Option<(u64, CliFailure)>>,
}

impl InputWriter<'_> {
    fn failure(&self) -> MutexGuard<'_, Option<(u64, CliFailure)>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, position: u64, failure: CliFailure) {
        let mut first = self.failure();
        if first.as_ref().is_none_or(|(at, _)| position < *at) {
            *first = Some((position, failure.after("written", position, self.total)));
        }
    }
}

impl Transfer for InputWriter<'_> {
    fn take(&self, connected: &Range<usize>, buffer: &mut [u8]) -> TransferTask {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        if input.has_ended {
            return TransferTask::End;
        }
        let position = input.position;
        let room = self.layout.size() - self.address - position;
        let wanted = room.min(buffer.len() as u64);
        let servers = transfer::servers(self.layout, self.address + position, wanted);
        if !transfer::is_connected(connected, &servers) {
            return TransferTask::Connect(servers);
        }
        // At the end of the memory, one byte tells whether the input has ended too.
        #[allow(clippy::cast_possible_truncation)] // at most the length of the buffer
        let wanted = wanted.max(1) as usize;
        let is_stopped = || self.failure().is_some();
        let length = match input.fill(&mut buffer[..wanted], is_stopped) {
            Ok(0) if self.total.is_some_and(|total| position < total) => {
                self.fail(position, CliFailure::ShorterInput(input.name.clone()));
                0
            }
            Ok(length) => length,
            Err(error) => {
                self.fail(position, CliFailure::input_output(&input.name, error));
                0
            }
        };
        if length > 0 && room == 0 {
            let failure = CliFailure::TooMuchInput {
                input: input.name.clone(),
                written: position,
                end: self.address + position,
            };
            self.failure().get_or_insert((position, failure));
        }
        if length == 0 || self.failure().is_some() {
            input.has_ended = true;
            return TransferTask::End;
        }
        input.position += length as u64;
        TransferTask::Move(TransferStep { position, length })
    }

    fn carry(&self, step: TransferStep, data: &mut [u8], client: &Client) {
        match client.write(self.address + step.position, data) {
            Ok(()) => self
                .progress
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .advance(step.length as u64),
            Err(error) => self.fail(step.position, error.into()),
        }
    }
}
