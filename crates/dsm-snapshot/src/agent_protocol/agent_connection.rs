//! A master's end of the connection to one agent: sends requests, receives responses, and turns
//! every failure into an [`AgentError`] that names the agent.

use super::error::{AgentError, RECEIVE_TASK};
use super::message_stream::{MessageStream, parse};
use super::messages::{
    AgentRequest, AgentResponse, LockId, LockPurpose, MAX_RESPONSE, RefusalReason,
};
use super::wire::AgentMessage;
use dsm_config::Config;
use dsm_core::net::connect;
use dsm_core::printable::printable;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long it may take to look a name up and to connect. A machine that is off does not answer at
/// all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of an unexpected response is shown, in bytes: its name, and the beginning of its
/// fields.
const MAX_SHOWN_RESPONSE: usize = 100;

/// The most agents that a master connects to at the same time. Each takes a thread, and one that is
/// off takes seconds.
const MAX_CONCURRENT_GREETINGS: usize = 32;

/// The connection to an agent that has answered `hello`.
pub struct AgentConnection {
    server: usize,
    address: String,
    hostname: String,
    stream: MessageStream,
}

impl AgentConnection {
    /// Connects to the agent of server `server` and sends `hello`.
    pub fn open(config: &Config, server: usize) -> Result<Self, AgentError> {
        let Some(agent) = config
            .servers
            .get(server)
            .and_then(|server| server.snapshot.as_ref())
        else {
            return Err(AgentError::NoAddress { server });
        };
        let address = agent.to_string();
        let timeout = config.snapshot.timeout;
        let unreachable = |source| AgentError::Unreachable {
            server,
            address: address.clone(),
            source,
        };
        let stream = connect(&address, CONNECT_TIMEOUT.min(timeout))
            .and_then(|socket| MessageStream::new(socket, timeout, MAX_RESPONSE))
            .map_err(unreachable)?;
        let mut connection = Self {
            server,
            address,
            hostname: String::new(),
            stream,
        };
        // At most MAX_SERVERS.
        let index = u32::try_from(server).unwrap_or(u32::MAX);
        match connection.request(
            &AgentRequest::Hello {
                layout: config.layout.canonical(),
                index,
            },
            "answer hello",
        )? {
            AgentResponse::Welcome { hostname } if is_hostname(&hostname) => {
                connection.hostname = hostname;
            }
            AgentResponse::Welcome { .. } => {
                return Err(connection.malformed(
                    "its hostname is not printable ASCII of at most 253 characters".to_owned(),
                ));
            }
            other => return Err(connection.unexpected(&other)),
        }
        Ok(connection)
    }

    /// Connects to the agents of several servers at the same time. The connections are in the order
    /// of the servers.
    pub fn open_all(config: &Config, servers: Range<usize>) -> Vec<Result<Self, AgentError>> {
        let threads = MAX_CONCURRENT_GREETINGS.min(servers.len());
        let next = Mutex::new(servers);
        let opened = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    loop {
                        let Some(server) =
                            next.lock().unwrap_or_else(PoisonError::into_inner).next()
                        else {
                            return;
                        };
                        let connection = Self::open(config, server);
                        opened
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push((server, connection));
                    }
                });
            }
        });
        let mut opened = opened.into_inner().unwrap_or_else(PoisonError::into_inner);
        opened.sort_by_key(|(server, _)| *server);
        opened
            .into_iter()
            .map(|(_, connection)| connection)
            .collect()
    }

    /// The server's index.
    #[must_use]
    pub fn server(&self) -> usize {
        self.server
    }

    /// How long the agent may take for one response or message.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.stream.timeout()
    }

    /// The hostname of the agent's machine; empty when it is not known.
    #[must_use]
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// Takes the snapshot lock of the segment (the request `claim`), and returns the segment's
    /// incarnation.
    pub fn take_snapshot_lock(
        &mut self,
        purpose: LockPurpose,
        id: &str,
    ) -> Result<u64, AgentError> {
        match self.request(
            &AgentRequest::Claim {
                purpose,
                id: LockId::of_hex(id),
            },
            "open its segment",
        )? {
            AgentResponse::Claimed { incarnation: 0 } => {
                Err(self.malformed("its memory has incarnation 0".to_owned()))
            }
            AgentResponse::Claimed { incarnation } => Ok(incarnation),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Sends a request whose response [`Self::receive_response`] returns.
    pub fn send_request(
        &self,
        request: &AgentRequest,
        task: &'static str,
    ) -> Result<(), AgentError> {
        self.stream
            .send_request(request)
            .map_err(|error| self.failed(error, task, self.stream.timeout()))
    }

    /// Sends bytes for the segment of the agent.
    pub fn send_data(&self, offset: u64, bytes: &[u8]) -> Result<(), AgentError> {
        let sent = super::wire::send_data(&mut self.stream.socket(), offset, bytes);
        sent.map_err(|error| self.failed(error, RECEIVE_TASK, self.stream.timeout()))
    }

    /// Sends a request and waits for the response. A refusal is an error.
    pub fn request(
        &mut self,
        request: &AgentRequest,
        task: &'static str,
    ) -> Result<AgentResponse, AgentError> {
        self.send_request(request, task)?;
        self.receive_response(task, self.stream.timeout())
    }

    /// Waits for a response. A refusal is an error.
    pub fn receive_response(
        &mut self,
        task: &'static str,
        timeout: Duration,
    ) -> Result<AgentResponse, AgentError> {
        match self.stream.control(timeout) {
            Ok(response) => self.accepted(response),
            Err(error) => Err(self.failed(error, task, timeout)),
        }
    }

    /// Waits for the next item of a transfer: bytes, or the response at the end.
    pub fn next<'a>(&'a mut self, task: &'static str) -> Result<TransferItem<'a>, AgentError> {
        let timeout = self.stream.timeout();
        // Copied, because the borrow of the returned message lasts as long as that of `self`.
        let (server, address) = (self.server, self.address.clone());
        match self.stream.receive_soon() {
            Ok(AgentMessage::Frame(bytes)) => Ok(TransferItem::Frame(bytes)),
            Ok(AgentMessage::Data { offset, bytes }) => Ok(TransferItem::Data { offset, bytes }),
            Ok(AgentMessage::Control(json)) => match parse(json) {
                Ok(response) => accepted(server, &address, response).map(TransferItem::End),
                Err(error) => Err(failed(server, &address, error, task, timeout)),
            },
            Err(error) => Err(failed(server, &address, error, task, timeout)),
        }
    }

    /// Takes the frame that [`AgentConnection::next`] returned last, and leaves a buffer for the
    /// next frame.
    pub fn take_frame(&mut self, spare: Vec<u8>) -> Vec<u8> {
        self.stream.take(spare)
    }

    fn accepted(&self, response: AgentResponse) -> Result<AgentResponse, AgentError> {
        accepted(self.server, &self.address, response)
    }

    fn failed(&self, error: io::Error, task: &'static str, timeout: Duration) -> AgentError {
        failed(self.server, &self.address, error, task, timeout)
    }

    /// The error for a response that does not belong to the request.
    #[must_use]
    pub fn unexpected(&self, response: &AgentResponse) -> AgentError {
        let response = format!("{response:?}");
        self.malformed(format!(
            "it answered {}",
            printable(&response, MAX_SHOWN_RESPONSE)
        ))
    }

    /// The error for a message that an agent does not send.
    #[must_use]
    pub fn malformed(&self, message: String) -> AgentError {
        AgentError::Malformed {
            server: self.server,
            address: self.address.clone(),
            message,
        }
    }
}

/// Whether a snapshot's header can hold this hostname.
#[must_use]
pub fn is_hostname(name: &str) -> bool {
    name.len() <= crate::MAX_HOSTNAME && name.chars().all(|c| c.is_ascii_graphic())
}

/// An item of what an agent sends after `send` or `fetch`.
pub enum TransferItem<'a> {
    /// A frame of a snapshot file.
    Frame(&'a [u8]),
    /// Bytes of the memory.
    Data {
        /// The offset of the first byte in the requested range.
        offset: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// The response after the last item.
    End(AgentResponse),
}

fn accepted(
    server: usize,
    address: &str,
    response: AgentResponse,
) -> Result<AgentResponse, AgentError> {
    match response {
        AgentResponse::Refused {
            reason: RefusalReason::UnderWay,
            message,
        } => Err(AgentError::UnderWay { message }),
        AgentResponse::Refused {
            reason: RefusalReason::InUse,
            ..
        } => Err(AgentError::InUse { server }),
        AgentResponse::Refused { message, .. } => Err(AgentError::Refused {
            server,
            address: address.to_owned(),
            message,
        }),
        response => Ok(response),
    }
}

fn failed(
    server: usize,
    address: &str,
    error: io::Error,
    task: &'static str,
    timeout: Duration,
) -> AgentError {
    let address = address.to_owned();
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => AgentError::TimedOut {
            server,
            address,
            task,
            timeout,
        },
        io::ErrorKind::InvalidData => AgentError::Malformed {
            server,
            address,
            message: error.to_string(),
        },
        io::ErrorKind::UnexpectedEof => {
            let source = io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection");
            AgentError::Lost {
                server,
                address,
                task,
                source,
            }
        }
        _ => AgentError::Lost {
            server,
            address,
            task,
            source: error,
        },
    }
}
