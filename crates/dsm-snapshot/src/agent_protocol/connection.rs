//! A connection between a master and an agent, either end of it: messages with deadlines.

use super::wire::{self, Answer, Ask, Message, Reason};
use dsm_core::printable::{self, printable};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{
    KeepAlive, TcpKeepCount, TcpKeepIdle, TcpKeepInterval, TcpUserTimeout,
};
use serde::de::DeserializeOwned;
use std::io::{self, BufReader, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A machine that loses power says nothing: after so many seconds of silence it is asked, so often,
/// whether it is there.
const KEEP_ALIVE_IDLE: u32 = 10;
const KEEP_ALIVE_INTERVAL: u32 = 5;
const KEEP_ALIVE_PROBES: u32 = 3;

/// Bytes received together. Longer payloads go past this buffer to where they belong.
const BUFFER: usize = 16 << 10;

/// One end.
pub struct Connection {
    reader: BufReader<Deadlined>,
    buffer: Vec<u8>,
    timeout: Duration,
    longest: usize,
}

/// A socket whose reads end at an instant.
struct Deadlined {
    socket: TcpStream,
    deadline: Instant,
}

impl Read for Deadlined {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        self.socket
            .read(buffer)
            .map_err(|error| match error.kind() {
                // How a socket says that its read timeout has passed.
                io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
                _ => error,
            })
    }
}

impl Connection {
    /// `timeout` is how long one message may take, `longest` the most bytes of a control message of
    /// the other side: of a question [`wire::MAX_ASK`], of an answer 1 MiB.
    pub fn new(socket: TcpStream, timeout: Duration, longest: usize) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(timeout))?;
        setsockopt(&socket, KeepAlive, &true)?;
        setsockopt(&socket, TcpKeepIdle, &KEEP_ALIVE_IDLE)?;
        setsockopt(&socket, TcpKeepInterval, &KEEP_ALIVE_INTERVAL)?;
        setsockopt(&socket, TcpKeepCount, &KEEP_ALIVE_PROBES)?;
        setsockopt(
            &socket,
            TcpUserTimeout,
            &u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
        )?;
        let reader = BufReader::with_capacity(
            BUFFER,
            Deadlined {
                socket,
                deadline: Instant::now(),
            },
        );
        Ok(Self {
            reader,
            buffer: Vec::new(),
            timeout,
            longest,
        })
    }

    /// The socket, to be written to.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.reader.get_ref().socket
    }

    /// Receives a message.
    pub fn receive(&mut self, timeout: Duration) -> io::Result<Message<'_>> {
        self.reader.get_mut().deadline = Instant::now() + timeout;
        wire::receive(&mut self.reader, &mut self.buffer, self.longest)
    }

    /// Takes the payload of the last message, and leaves another buffer to be filled.
    pub fn take(&mut self, spare: Vec<u8>) -> Vec<u8> {
        std::mem::replace(&mut self.buffer, spare)
    }

    /// Receives a message within the time for one.
    pub fn receive_soon(&mut self) -> io::Result<Message<'_>> {
        self.receive(self.timeout)
    }

    /// Receives a control message.
    pub fn control<T: DeserializeOwned>(&mut self, timeout: Duration) -> io::Result<T> {
        match self.receive(timeout)? {
            Message::Control(json) => parse(json),
            other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it sent {}", name(&other)),
            )),
        }
    }

    /// The time for one message.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Sends what a master asks.
    pub fn ask(&self, ask: &Ask) -> io::Result<()> {
        wire::send_control(&mut self.socket(), ask)
    }

    /// Sends what an agent answers.
    pub fn answer(&self, answer: &Answer) -> io::Result<()> {
        wire::send_control(&mut self.socket(), answer)
    }

    /// Sends a refusal.
    pub fn refuse(&self, reason: Reason, message: &str) -> io::Result<()> {
        self.answer(&Answer::Refused {
            reason,
            message: message.to_owned(),
        })
    }
}

/// Reads the JSON of a control message.
pub fn parse<T: DeserializeOwned>(json: &[u8]) -> io::Result<T> {
    serde_json::from_slice(json).map_err(|error| {
        // It quotes what it has not understood.
        let error = error.to_string();
        let error = printable(&error, printable::LOG);
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it sent a message that is not understood: {error}"),
        )
    })
}

fn name(message: &Message<'_>) -> &'static str {
    match message {
        Message::Control(_) => "a control message out of turn",
        Message::Frame(_) => "a frame out of turn",
        Message::Data { .. } => "data out of turn",
    }
}
