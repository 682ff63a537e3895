//! A server without a socket, as small as the promises that the tests check: sessions, the ids that
//! each has executed, and their results.

use dsm_core::layout::Layout;
use dsm_core::protocol::{
    Code, HEADER, HelloReply, HelloRequest, MemoryChange, MemoryOperation, Opcode, Refusal,
    ReplyHeader, Request, RequestHeader, WINDOW, split_request,
};
use std::collections::HashMap;
use std::ops::Range;
use zerocopy::{FromBytes, IntoBytes};

#[derive(Debug)]
pub(super) struct ModelServer {
    layout: Layout,
    pub(super) memory: Vec<u8>,
    sessions: HashMap<[u8; 16], ModelSession>,
    opened: usize,
    /// The session of each hello that was answered.
    pub(super) hellos: Vec<[u8; 16]>,
    /// The session and the id of each change that was executed.
    pub(super) executed: Vec<([u8; 16], u64)>,
    /// Answers to the requests with these ids, instead of executing them once.
    pub(super) refusals: HashMap<u64, Code>,
    /// Executes the requests that it receives later, when this is false again.
    pub(super) is_stopped: bool,
}

#[derive(Debug, Default)]
struct ModelSession {
    /// The connection whose hello was the last.
    owner: usize,
    last: u64,
    results: HashMap<u64, u64>,
}

/// The server's end of a connection.
#[derive(Debug)]
pub(super) struct ModelConnection {
    number: usize,
    session: Option<[u8; 16]>,
    input: Vec<u8>,
    /// What it has sent.
    pub(super) output: Vec<u8>,
    pub(super) is_closed: bool,
}

impl ModelServer {
    pub(super) fn new(layout: Layout) -> Self {
        Self {
            memory: vec![0; usize::try_from(layout.share_size()).unwrap()],
            layout,
            sessions: HashMap::new(),
            opened: 0,
            hellos: Vec::new(),
            executed: Vec::new(),
            refusals: HashMap::new(),
            is_stopped: false,
        }
    }

    pub(super) fn open(&mut self) -> ModelConnection {
        self.opened += 1;
        ModelConnection {
            number: self.opened,
            session: None,
            input: Vec::new(),
            output: Vec::new(),
            is_closed: false,
        }
    }

    pub(super) fn forget_sessions(&mut self) {
        self.sessions.clear();
    }

    pub(super) fn word(&self, offset: usize) -> u64 {
        u64::read_from_bytes(&self.memory[offset..offset + 8]).unwrap()
    }

    /// The server receives `bytes`, and does what whole requests ask for.
    pub(super) fn receive(&mut self, connection: &mut ModelConnection, bytes: &[u8]) {
        connection.input.extend_from_slice(bytes);
        while !self.is_stopped && !connection.is_closed {
            let Some((header, rest)) = split_request(&connection.input).unwrap() else {
                return;
            };
            let length = header.payload.get() as usize;
            if rest.len() < length {
                return;
            }
            let frame: Vec<u8> = connection.input.drain(..HEADER + length).collect();
            self.answer(connection, &header, &frame[HEADER..]);
        }
    }

    fn answer(&mut self, connection: &mut ModelConnection, header: &RequestHeader, payload: &[u8]) {
        let id = header.id.get();
        let outcome = match connection.session {
            None => Ok((0, self.hello(connection, payload))),
            // Nothing of a session is executed for a connection that another one has superseded.
            Some(id) if self.sessions[&id].owner != connection.number => {
                Err(Refusal::new(Code::Superseded, "superseded"))
            }
            Some(session) => match self.refusals.remove(&id) {
                Some(code) => Err(Refusal::new(code, "the test refuses this")),
                None => Ok(self.execute(session, header, payload)),
            },
        };
        let (reply, payload) = match outcome {
            Ok((value, data)) => {
                let length = u32::try_from(data.len()).unwrap();
                (ReplyHeader::new(header.opcode, id, length, value), data)
            }
            Err(refusal) => {
                connection.is_closed = refusal.code.closes();
                let text = refusal.message.into_bytes();
                let length = u32::try_from(text.len()).unwrap();
                let reply = ReplyHeader::refusal(header.opcode, id, refusal.code, length);
                (reply, text)
            }
        };
        connection.output.extend_from_slice(reply.as_bytes());
        connection.output.extend_from_slice(&payload);
    }

    fn hello(&mut self, connection: &mut ModelConnection, payload: &[u8]) -> Vec<u8> {
        let (hello, _) = HelloRequest::parse(payload, &self.layout, 0).unwrap();
        self.hellos.push(hello.session);
        connection.session = Some(hello.session);
        let resumed = self.sessions.contains_key(&hello.session);
        let session = self.sessions.entry(hello.session).or_default();
        session.owner = connection.number;
        let k = self.layout.share_size();
        let reply = HelloReply::new(0, 7, k, session.last, resumed);
        reply.as_bytes().to_vec()
    }

    fn execute(
        &mut self,
        id_of_session: [u8; 16],
        header: &RequestHeader,
        payload: &[u8],
    ) -> (u64, Vec<u8>) {
        let request = Request::parse(header, payload, self.layout.share_size()).unwrap();
        let session = self.sessions.get_mut(&id_of_session).unwrap();
        let (id, memory) = (header.id.get(), &mut self.memory);
        let change = match request {
            Request::Memory(MemoryOperation::Read(extent)) => {
                let (start, length) = (extent.offset(), extent.length() as u64);
                return (0, memory[range(start, length)].to_vec());
            }
            Request::Memory(MemoryOperation::Change(change)) => change,
            request => panic!("{request:?} is not one of the tests' requests"),
        };
        if id <= session.last {
            assert!(session.last - id < WINDOW, "id {id} is outside the window");
            return (session.results[&id], Vec::new());
        }
        let value = match change {
            MemoryChange::Write(extent, data) => {
                memory[range(extent.offset(), data.len() as u64)].copy_from_slice(data);
                0
            }
            MemoryChange::Atomic(word, atomic) => {
                let word = &mut memory[range(word.offset(), 8)];
                let old = u64::read_from_bytes(word).unwrap();
                word.copy_from_slice(&atomic.apply(old).unwrap_or(old).to_le_bytes());
                old
            }
            change => panic!("{change:?} is not one of the tests' changes"),
        };
        session.last = id;
        session.results.insert(id, value);
        self.executed.push((id_of_session, id));
        (value, Vec::new())
    }
}

/// Whether the bytes begin with a hello, and have nothing behind it.
pub(super) fn is_hello_alone(bytes: &[u8]) -> bool {
    let (header, rest) = split_request(bytes).unwrap().unwrap();
    header.opcode == Opcode::Hello as u8 && rest.len() == header.payload.get() as usize
}

/// The number of whole requests.
pub(super) fn count_requests(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Some((header, rest)) = split_request(bytes).unwrap() {
        bytes = &rest[header.payload.get() as usize..];
        count += 1;
    }
    assert!(bytes.is_empty());
    count
}

fn range(start: u64, length: u64) -> Range<usize> {
    let start = usize::try_from(start).unwrap();
    start..start + usize::try_from(length).unwrap()
}
