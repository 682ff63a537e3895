//! A master's end of the connection to one agent.

use super::connection::{Connection, parse};
use super::wire::{Answer, Ask, ClaimId, MAX_ANSWER, Message, Purpose, Reason};
use dsm_config::Config;
use dsm_core::printable::printable;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a connection may take to come about: a machine that is off does not answer at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How much of an answer to another question is shown, in bytes: which it is, and the begin of what
/// it says.
const MAX_SHOWN_ANSWER: usize = 100;

/// Agents that are greeted at the same time; each takes a thread, and one that is off takes
/// seconds.
const GREETERS: usize = 32;

/// Why an agent did not do its part. Each message names it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// It has no address.
    #[error(
        "server {server} has no snapshot agent: mcomp.cfg uses the port after its own for something else, so give it an \
         address of its own with `snapshot` in its [[server]] table"
    )]
    NoAddress {
        /// The server's index.
        server: usize,
    },
    /// Nobody answers there.
    #[error(
        "the snapshot agent of server {server} ({address}) cannot be reached: {source}. Check that it runs there \
         (systemctl status dsm-snapshot-agent.socket{}) and that the network leads to it", listens(.address)
    )]
    Unreachable {
        /// The server's index.
        server: usize,
        /// The agent's address.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// It did not answer in time.
    #[error(
        "the snapshot agent of server {server} ({address}) did not {task} within {}: {}",
        humantime::format_duration(*.timeout), after_silence(.task)
    )]
    Silent {
        /// The server's index.
        server: usize,
        /// The agent's address.
        address: String,
        /// What it was to do.
        task: &'static str,
        /// How long it had.
        timeout: Duration,
    },
    /// The connection broke.
    #[error(
        "the connection with the snapshot agent of server {server} ({address}) was lost when it was to {task}: {source}"
    )]
    Lost {
        /// The server's index.
        server: usize,
        /// The agent's address.
        address: String,
        /// What it was to do.
        task: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It does not speak as an agent does.
    #[error(
        "what listens as the snapshot agent of server {server} ({address}) is none, or is broken: {message}"
    )]
    Garbage {
        /// The server's index.
        server: usize,
        /// The agent's address.
        address: String,
        /// What it sent.
        message: String,
    },
    /// Another snapshot or restore has the segment.
    #[error("{message}")]
    UnderWay {
        /// What the agent said, or who else is at work.
        message: String,
    },
    /// The memory of its server does not wait for a restore.
    #[error("the memory of server {server} is in use: it does not wait for a restore")]
    InUse {
        /// The server's index.
        server: usize,
    },
    /// It refused.
    #[error("the snapshot agent of server {server} ({address}) refused: {message}")]
    Refused {
        /// The server's index.
        server: usize,
        /// The agent's address.
        address: String,
        /// Why.
        message: String,
    },
}

/// What a master asks an agent for that keeps the writers of its server out.
pub const FREEZE: &str = "keep its writers out";

/// What to do about an agent that has not done this in time.
fn after_silence(task: &str) -> &'static str {
    if task == FREEZE {
        "see that no process was stopped there in the middle of a write (the error of dsmctl write names it), that its machine \
         is up and that the network leads to it, or raise snapshot.freeze_timeout in mcomp.cfg"
    } else {
        "see that its machine is up and that the network leads to it, or raise snapshot.timeout in mcomp.cfg"
    }
}

/// Where an agent listens until it is told otherwise, if that is not where it is looked for.
fn listens(address: &str) -> &'static str {
    if address
        .parse()
        .is_ok_and(|address: SocketAddr| address.ip().is_loopback())
    {
        return "";
    }
    ", which also says where it listens: 127.0.0.1:7412 as packaged, so that only its own machine reaches it; how to change \
     that stands in step 5 of the packaged mcomp.cfg"
}

impl AgentError {
    /// The exit code of a program that fails by it, after `sysexits(3)`.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::InUse { .. } => 65,
            Self::UnderWay { .. } => 75,
            Self::Garbage { .. } => 76,
            Self::NoAddress { .. } => 78,
            _ => 69,
        }
    }
}

/// An agent that was greeted.
pub struct Link {
    server: usize,
    address: String,
    hostname: String,
    connection: Connection,
}

impl Link {
    /// Connects to the agent of server `server` and greets it.
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
        let mut outcome = Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        ));
        for candidate in agent.resolve().map_err(unreachable)? {
            outcome = TcpStream::connect_timeout(&candidate, CONNECT_TIMEOUT.min(timeout));
            if outcome.is_ok() {
                break;
            }
        }
        let connection = outcome
            .and_then(|socket| Connection::new(socket, timeout, MAX_ANSWER))
            .map_err(unreachable)?;
        let mut link = Self {
            server,
            address,
            hostname: String::new(),
            connection,
        };
        // At most MAX_SERVERS.
        let index = u32::try_from(server).unwrap_or(u32::MAX);
        match link.request(
            &Ask::Hello {
                layout: config.layout.canonical(),
                index,
            },
            "answer a greeting",
        )? {
            Answer::Welcome { hostname } if is_hostname(&hostname) => link.hostname = hostname,
            Answer::Welcome { .. } => {
                return Err(link.garbage("it has a hostname that cannot be".to_owned()));
            }
            other => return Err(link.unexpected(&other)),
        }
        Ok(link)
    }

    /// Connects to the agents of several servers at the same time, and greets them. The links are
    /// in the servers' order.
    pub fn open_all(config: &Config, servers: Range<usize>) -> Vec<Result<Self, AgentError>> {
        let threads = GREETERS.min(servers.len());
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
                        let link = Self::open(config, server);
                        opened
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push((server, link));
                    }
                });
            }
        });
        let mut opened = opened.into_inner().unwrap_or_else(PoisonError::into_inner);
        opened.sort_by_key(|(server, _)| *server);
        opened.into_iter().map(|(_, link)| link).collect()
    }

    /// The server's index.
    #[must_use]
    pub fn server(&self) -> usize {
        self.server
    }

    /// The time for one message.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.connection.timeout()
    }

    /// What the agent's machine calls itself.
    #[must_use]
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// Asks to claim the segment, and returns its incarnation.
    pub fn claim(&mut self, purpose: Purpose, id: &str) -> Result<u64, AgentError> {
        match self.request(
            &Ask::Claim {
                purpose,
                id: ClaimId::of_hex(id),
            },
            "open its segment",
        )? {
            Answer::Claimed { incarnation: 0 } => {
                Err(self.garbage("its memory has incarnation 0".to_owned()))
            }
            Answer::Claimed { incarnation } => Ok(incarnation),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Sends an ask whose answer is received later.
    pub fn ask(&self, ask: &Ask, task: &'static str) -> Result<(), AgentError> {
        self.connection
            .ask(ask)
            .map_err(|error| self.failed(error, task, self.connection.timeout()))
    }

    /// Sends bytes of memory for its segment.
    pub fn send_data(&self, offset: u64, bytes: &[u8]) -> Result<(), AgentError> {
        let sent = super::wire::send_data(&mut self.connection.socket(), offset, bytes);
        sent.map_err(|error| self.failed(error, RECEIVE, self.connection.timeout()))
    }

    /// Asks and waits for the answer, which is not a refusal.
    pub fn request(&mut self, ask: &Ask, task: &'static str) -> Result<Answer, AgentError> {
        self.ask(ask, task)?;
        self.answer(task, self.connection.timeout())
    }

    /// Waits for an answer, which is not a refusal.
    pub fn answer(&mut self, task: &'static str, timeout: Duration) -> Result<Answer, AgentError> {
        match self.connection.control(timeout) {
            Ok(answer) => self.accepted(answer),
            Err(error) => Err(self.failed(error, task, timeout)),
        }
    }

    /// Waits for the next part of what it sends: bytes, or the answer at the end.
    pub fn next<'a>(&'a mut self, task: &'static str) -> Result<Part<'a>, AgentError> {
        let timeout = self.connection.timeout();
        // The borrow of a message that is returned would keep `self` from being asked for its name
        // otherwise.
        let (server, address) = (self.server, self.address.clone());
        match self.connection.receive_soon() {
            Ok(Message::Frame(bytes)) => Ok(Part::Frame(bytes)),
            Ok(Message::Data { offset, bytes }) => Ok(Part::Data { offset, bytes }),
            Ok(Message::Control(json)) => match parse(json) {
                Ok(answer) => accepted(server, &address, answer).map(Part::End),
                Err(error) => Err(failed(server, &address, error, task, timeout)),
            },
            Err(error) => Err(failed(server, &address, error, task, timeout)),
        }
    }

    /// Takes the frame that [`Link::next`] has just shown, and leaves a buffer for another one.
    pub fn take_frame(&mut self, spare: Vec<u8>) -> Vec<u8> {
        self.connection.take(spare)
    }

    fn accepted(&self, answer: Answer) -> Result<Answer, AgentError> {
        accepted(self.server, &self.address, answer)
    }

    fn failed(&self, error: io::Error, task: &'static str, timeout: Duration) -> AgentError {
        failed(self.server, &self.address, error, task, timeout)
    }

    /// The error for an answer to another question.
    #[must_use]
    pub fn unexpected(&self, answer: &Answer) -> AgentError {
        let answer = format!("{answer:?}");
        self.garbage(format!(
            "it answered {}",
            printable(&answer, MAX_SHOWN_ANSWER)
        ))
    }

    /// The error for what cannot be.
    #[must_use]
    pub fn garbage(&self, message: String) -> AgentError {
        AgentError::Garbage {
            server: self.server,
            address: self.address.clone(),
            message,
        }
    }
}

/// Whether a snapshot can name a machine so.
#[must_use]
pub fn is_hostname(name: &str) -> bool {
    name.len() <= crate::MAX_HOSTNAME && name.chars().all(|c| c.is_ascii_graphic())
}

/// What an agent that takes a restore does.
pub const RECEIVE: &str = "take the bytes of the snapshot";

/// A part of what an agent sends.
pub enum Part<'a> {
    /// A frame of a snapshot file.
    Frame(&'a [u8]),
    /// Bytes of the memory.
    Data {
        /// The first one's place in the range that was asked for.
        offset: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// What the agent says after the last one.
    End(Answer),
}

fn accepted(server: usize, address: &str, answer: Answer) -> Result<Answer, AgentError> {
    match answer {
        Answer::Refused {
            reason: Reason::UnderWay,
            message,
        } => Err(AgentError::UnderWay { message }),
        Answer::Refused {
            reason: Reason::InUse,
            ..
        } => Err(AgentError::InUse { server }),
        Answer::Refused { message, .. } => Err(AgentError::Refused {
            server,
            address: address.to_owned(),
            message,
        }),
        answer => Ok(answer),
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
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => AgentError::Silent {
            server,
            address,
            task,
            timeout,
        },
        io::ErrorKind::InvalidData => AgentError::Garbage {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_other_machines_cannot_reach_is_said_to_listen_where_the_package_lets_it() {
        let said = |address: &str| {
            let source = io::ErrorKind::ConnectionRefused.into();
            AgentError::Unreachable {
                server: 1,
                address: address.to_owned(),
                source,
            }
            .to_string()
        };
        for other in ["10.0.0.2:7412", "[2001:db8::1]:7412", "host.example:7412"] {
            assert!(
                said(other).contains("127.0.0.1:7412 as packaged"),
                "{}",
                said(other)
            );
        }
        for own in ["127.0.0.1:7512", "[::1]:7412"] {
            assert!(!said(own).contains("as packaged"), "{}", said(own));
        }
        let config = include_str!("../../../../etc/mcomp.cfg");
        let step = config
            .lines()
            .find(|line| line.starts_with("#   5. "))
            .unwrap_or_default();
        assert!(
            step.contains("agent listen where the others reach it"),
            "{step}"
        );
    }
}
