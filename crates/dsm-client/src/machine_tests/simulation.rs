//! A driver without sockets: it carries bytes between the state machine and the model server, and
//! breaks connections where a test wants it. Time passes by hand.

use super::super::call::{Call, CallKind, CallOutput};
use super::super::error::Error;
use super::super::pool::ClientState;
use super::super::server_connection::{Phase, ServerConnection};
use super::super::server_queue::{Demand, QueueMachine, ServerQueue};
use super::model_server::{ModelConnection, ModelServer};
use dsm_core::layout::Layout;
use dsm_core::protocol::AtomicOperation;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) const K: u64 = 16 << 20;

/// Where a connection breaks: after so many bytes that the client sent or received on it, or at once
/// if there were more already.
#[derive(Debug, Clone, Copy)]
pub(super) enum Break {
    Sent(usize),
    Received(usize),
}

pub(super) struct Simulation<'a> {
    pub(super) shared: Arc<ClientState>,
    pub(super) connection: ServerConnection,
    pub(super) queue: ServerQueue<'a>,
    pub(super) server: ModelServer,
    /// The server's end of the connection, if one is open.
    pub(super) wire: Option<ModelConnection>,
    pub(super) now: Instant,
    /// The next connections break here, one after the other.
    pub(super) breaks: Vec<Break>,
    /// The most bytes that one receive takes.
    pub(super) chunk: usize,
    sent: usize,
    received: usize,
}

impl<'a> Simulation<'a> {
    pub(super) fn new() -> Self {
        let layout = Layout::new("model", K, vec!["127.0.0.1:1".into()]).unwrap();
        let shared = Arc::new(ClientState::new(layout.clone()));
        Self::with(shared, ModelServer::new(layout), Instant::now())
    }

    fn with(shared: Arc<ClientState>, server: ModelServer, now: Instant) -> Self {
        Self {
            connection: shared.new_connection(0, now),
            shared,
            queue: ServerQueue::default(),
            server,
            wire: None,
            now,
            breaks: Vec::new(),
            chunk: usize::MAX,
            sent: 0,
            received: 0,
        }
    }

    /// The next owner of the connection, with other calls and borrows.
    pub(super) fn next_call<'b>(self) -> Simulation<'b> {
        Simulation {
            connection: self.connection,
            wire: self.wire,
            sent: self.sent,
            received: self.received,
            ..Simulation::with(self.shared, self.server, self.now)
        }
    }

    pub(super) fn machine(&mut self) -> QueueMachine<'_, 'a> {
        QueueMachine {
            shared: &self.shared,
            connection: &mut self.connection,
            queue: &mut self.queue,
        }
    }

    pub(super) fn push(&mut self, kind: CallKind<'a>, offset: u64, length: u64) {
        self.queue.push(Call::new(kind, offset, length));
    }

    pub(super) fn increment(&mut self, offset: u64) {
        self.push(CallKind::Atomic(AtomicOperation::Add(1)), offset, 8);
    }

    pub(super) fn outcome(&mut self) -> Result<CallOutput, Error> {
        self.queue.take().expect("the call has an outcome")
    }

    /// What the increment that was submitted first returned.
    pub(super) fn old_value(&mut self) -> u64 {
        match self.outcome() {
            Ok(CallOutput::Old(old)) => old,
            other => panic!("{other:?}"),
        }
    }

    /// Takes turns until every call has its outcome.
    pub(super) fn run(&mut self) {
        for _ in 0..100_000 {
            if !self.queue.is_busy() {
                return;
            }
            self.step();
        }
        panic!("it makes no progress: {:?}", self.connection);
    }

    /// What a driver does in one turn: everything that it can without waiting; if that is nothing,
    /// the time passes until the next timeout.
    pub(super) fn step(&mut self) {
        let now = self.now;
        if self.machine().is_established() {
            if !(self.send() | self.receive()) {
                assert!(self.wire.as_ref().is_some_and(|wire| wire.is_closed));
                self.break_off("the server closed it");
            }
            return;
        }
        self.wire = None;
        match self.machine().demand(now) {
            Demand::Connection => self.machine().connecting(now),
            Demand::NextAddress => self.machine().no_address_left(now),
            Demand::Nothing => match self.connection.phase {
                Phase::Connecting(_) => self.connect(),
                _ => self.now = self.connection.next_timeout().unwrap(),
            },
        }
    }

    /// The attempt to connect succeeds.
    pub(super) fn connect(&mut self) {
        (self.sent, self.received) = (0, 0);
        self.wire = Some(self.server.open());
        let now = self.now;
        self.machine().connected(now);
    }

    /// The connection ends; the server reads what is in flight as far as it was sent.
    pub(super) fn break_off(&mut self, reason: &str) {
        let now = self.now;
        self.machine().disconnected(reason.into(), now);
        self.wire = None;
    }

    /// The bytes that the next send carries, without an effect.
    pub(super) fn unsent(&mut self) -> Vec<u8> {
        let now = self.now;
        let parts = self
            .machine()
            .transmit(now)
            .map(|(head, tail)| [head, tail].concat());
        parts.unwrap_or_default()
    }

    /// Sends what there is; whether there was something.
    pub(super) fn send(&mut self) -> bool {
        let mut bytes = self.unsent();
        let limit = match self.breaks.first() {
            Some(Break::Sent(limit)) => limit.saturating_sub(self.sent),
            _ => usize::MAX,
        };
        bytes.truncate(limit);
        if bytes.is_empty() && limit > 0 {
            return false;
        }
        self.machine().sent(bytes.len());
        self.sent += bytes.len();
        if let Some(wire) = &mut self.wire {
            self.server.receive(wire, &bytes);
        }
        if bytes.len() == limit {
            self.breaks.remove(0);
            self.break_off("it broke");
        }
        true
    }

    /// Receives what there is, at most a chunk; whether there was something.
    pub(super) fn receive(&mut self) -> bool {
        let Some(wire) = &mut self.wire else {
            return false;
        };
        let limit = match self.breaks.first() {
            Some(Break::Received(limit)) => limit.saturating_sub(self.received),
            _ => usize::MAX,
        };
        let count = wire.output.len().min(limit).min(self.chunk);
        let bytes: Vec<u8> = wire.output.drain(..count).collect();
        if bytes.is_empty() && limit > 0 {
            return false;
        }
        self.put(&bytes);
        self.received += count;
        if count == limit {
            self.breaks.remove(0);
            self.break_off("it broke");
        }
        true
    }

    /// Gives the machine bytes, as receives with all the room that it offers.
    pub(super) fn put(&mut self, mut bytes: &[u8]) {
        let now = self.now;
        while !bytes.is_empty() && self.machine().is_established() {
            let mut machine = self.machine();
            let (target, space) = machine.receive_space();
            let direct = bytes.len().min(target.len());
            target[..direct].copy_from_slice(&bytes[..direct]);
            let rest = (bytes.len() - direct).min(space.len());
            space[..rest].copy_from_slice(&bytes[direct..direct + rest]);
            machine.received(direct + rest, now);
            bytes = &bytes[direct + rest..];
        }
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
    }
}
