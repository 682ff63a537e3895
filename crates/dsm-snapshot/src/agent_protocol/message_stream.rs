//! One end of a connection between a master and an agent: sends and receives messages, each with a
//! deadline.

use super::messages::{AgentRequest, AgentResponse, RefusalReason};
use super::wire::{self, AgentMessage};
use dsm_core::net::{KeepAliveTimes, Stream};
use dsm_core::printable::{self, printable};
use serde::de::DeserializeOwned;
use std::io::{self, BufReader, Read};
use std::time::{Duration, Instant};

/// A machine that loses power closes no connection: this detects it after 25 s.
const KEEP_ALIVE: KeepAliveTimes = KeepAliveTimes {
    idle: 10,
    interval: 5,
    probes: 3,
};

/// Bytes of the receive buffer. Longer payloads are read directly into their own buffer.
const BUFFER: usize = 16 << 10;

/// A socket with the buffers and time limits for messages.
pub struct MessageStream {
    reader: BufReader<DeadlineReader>,
    buffer: Vec<u8>,
    timeout: Duration,
    longest: usize,
}

/// A socket whose reads fail after a deadline.
struct DeadlineReader {
    socket: Stream,
    deadline: Instant,
}

impl Read for DeadlineReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_receive_timeout(left)?;
        (&self.socket)
            .read(buffer)
            .map_err(|error| match error.kind() {
                // A socket reports this when its read timeout has passed.
                io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
                _ => error,
            })
    }
}

impl MessageStream {
    /// `timeout` is how long one message may take. `longest` is the most bytes of a control message
    /// of the peer: [`super::MAX_REQUEST`] for a request, 1 MiB for a response.
    pub fn new(socket: Stream, timeout: Duration, longest: usize) -> io::Result<Self> {
        socket.set_no_delay()?;
        socket.set_send_timeout(timeout)?;
        socket.set_keep_alive(KEEP_ALIVE)?;
        socket.set_unacknowledged_timeout(timeout)?;
        let reader = BufReader::with_capacity(
            BUFFER,
            DeadlineReader {
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

    /// The socket, to write to.
    #[must_use]
    pub fn socket(&self) -> &Stream {
        &self.reader.get_ref().socket
    }

    /// Receives a message within `timeout`.
    pub fn receive(&mut self, timeout: Duration) -> io::Result<AgentMessage<'_>> {
        self.reader.get_mut().deadline = Instant::now() + timeout;
        wire::receive(&mut self.reader, &mut self.buffer, self.longest)
    }

    /// Takes the payload of the last message, and leaves `spare` as the buffer for the next one.
    pub fn take(&mut self, spare: Vec<u8>) -> Vec<u8> {
        std::mem::replace(&mut self.buffer, spare)
    }

    /// Receives a message within the timeout of the stream.
    pub fn receive_soon(&mut self) -> io::Result<AgentMessage<'_>> {
        self.receive(self.timeout)
    }

    /// Receives a control message within `timeout`.
    pub fn control<T: DeserializeOwned>(&mut self, timeout: Duration) -> io::Result<T> {
        match self.receive(timeout)? {
            AgentMessage::Control(json) => parse(json),
            other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it sent {}", name(&other)),
            )),
        }
    }

    /// How long one message may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Sends a request of a master.
    pub fn send_request(&self, request: &AgentRequest) -> io::Result<()> {
        wire::send_control(&mut self.socket(), request)
    }

    /// Sends a response of an agent.
    pub fn send_response(&self, response: &AgentResponse) -> io::Result<()> {
        wire::send_control(&mut self.socket(), response)
    }

    /// Sends a refusal.
    pub fn refuse(&self, reason: RefusalReason, message: &str) -> io::Result<()> {
        self.send_response(&AgentResponse::Refused {
            reason,
            message: message.to_owned(),
        })
    }
}

/// Reads the JSON of a control message.
pub fn parse<T: DeserializeOwned>(json: &[u8]) -> io::Result<T> {
    serde_json::from_slice(json).map_err(|error| {
        // The error quotes the peer's text.
        let error = error.to_string();
        let error = printable(&error, printable::MAX_LOG_TEXT);
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("it sent a message that is not understood: {error}"),
        )
    })
}

fn name(message: &AgentMessage<'_>) -> &'static str {
    match message {
        AgentMessage::Control(_) => "a control message out of turn",
        AgentMessage::Frame(_) => "a frame out of turn",
        AgentMessage::Data { .. } => "data out of turn",
    }
}
