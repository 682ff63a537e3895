//! A fake server inside the process of the test. It follows the protocol, but for the faults that
//! the test asks for.
#![allow(clippy::cast_possible_truncation)] // the numbers of tests are small

use dsm_core::layout::Layout;
use dsm_core::protocol::{
    Code, HEADER, HelloReply, HelloRequest, MemoryChange, MemoryOperation, Opcode, Refusal,
    ReplyHeader, Request, RequestHeader, WINDOW, split_request,
};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

/// What the server does instead of executing a request and replying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerFault {
    /// Close the connection without executing it.
    BreakBefore,
    /// Execute it, and close the connection without a reply.
    BreakAfter,
    /// Execute it, and close the connection in the middle of the reply.
    BreakInReply,
    /// Execute it and never reply, nor close.
    Stall,
    /// Refuse it; the connection is closed if the code says so.
    Refuse(Code),
    /// Reply with another magic.
    WrongMagic,
    /// Reply with another id.
    WrongId,
    /// Reply with other bytes of the same number.
    OtherData,
    /// Reply with another opcode.
    WrongOpcode,
    /// Reply with one byte of payload more than expected.
    TooLong,
    /// Reply with a payload length above the maximum.
    Endless,
    /// Reply with a code that does not exist.
    UnknownCode,
    /// Reply twice.
    Twice,
}

#[derive(Default)]
struct FakeSession {
    last: u64,
    results: HashMap<u64, u64>,
}

/// The state of the server, and the faults that the test has asked for.
pub struct FakeServerState {
    pub memory: Vec<u8>,
    pub incarnation: u64,
    sessions: HashMap<[u8; 16], FakeSession>,
    /// The faults, each with the number of the request that it is for. Hellos have no number.
    faults: Vec<(u64, ServerFault)>,
    /// Returns the fault for the request with this number, or none.
    pub chaos: Option<Box<dyn FnMut(u64) -> Option<ServerFault> + Send>>,
    /// The feature bits of the replies to hello.
    pub features: u32,
    /// How many hellos to refuse, and with which code.
    pub refuse_hello: (u32, Option<Code>),
    /// The text of the refusals that the test asks for.
    pub refusal: String,
    /// The reply to a status request, as JSON.
    pub status: String,
    /// Do not reply to hellos.
    pub deaf: bool,
    pub requests: u64,
    pub executed: HashMap<Opcode, u64>,
    pub replayed: u64,
    pub hellos: u64,
    pub resumed: u64,
    open: Vec<TcpStream>,
}

/// A fake server in this process, which listens on a free port.
pub struct FakeServer {
    pub address: String,
    pub state: Arc<Mutex<FakeServerState>>,
    stopping: Arc<AtomicBool>,
}

/// Starts `n` fake servers of `k` bytes. Returns their layout, too.
pub fn servers(n: usize, k: u64) -> (Layout, Vec<FakeServer>) {
    let listeners: Vec<_> = (0..n)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let addresses = listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap().to_string())
        .collect();
    let layout = Layout::new("fake", k, addresses).unwrap();
    let start = |(index, listener)| FakeServer::start(listener, index, layout.clone());
    let servers = listeners.into_iter().enumerate().map(start).collect();
    (layout, servers)
}

impl FakeServer {
    /// Starts a server at its endpoint in the layout. The endpoint must be free.
    pub fn at(layout: &Layout, index: usize) -> Self {
        let listener = TcpListener::bind(&layout.addresses()[index]).unwrap();
        Self::start(listener, index, layout.clone())
    }

    fn start(listener: TcpListener, index: usize, layout: Layout) -> Self {
        let state = FakeServerState {
            memory: vec![0; layout.share_size() as usize],
            incarnation: 0x1000 + index as u64,
            sessions: HashMap::new(),
            faults: Vec::new(),
            chaos: None,
            features: 0,
            refuse_hello: (0, None),
            refusal: "requested by the test".to_owned(),
            status: STATUS.to_owned(),
            deaf: false,
            requests: 0,
            executed: HashMap::new(),
            replayed: 0,
            hellos: 0,
            resumed: 0,
            open: Vec::new(),
        };
        let address = layout.addresses()[index].clone();
        let (state, stopping) = (
            Arc::new(Mutex::new(state)),
            Arc::new(AtomicBool::new(false)),
        );
        let server = Self {
            address,
            state: Arc::clone(&state),
            stopping: Arc::clone(&stopping),
        };
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
                let (stream, state, layout) = (stream.unwrap(), Arc::clone(&state), layout.clone());
                thread::spawn(move || {
                    FakeConnection {
                        stream,
                        state,
                        layout,
                        index,
                        buffer: Vec::new(),
                    }
                    .serve();
                });
            }
        });
        server
    }

    pub fn state(&self) -> MutexGuard<'_, FakeServerState> {
        self.state.lock().unwrap()
    }

    /// Asks for one fault, at the request that follows `after` more requests.
    pub fn fault(&self, after: u64, fault: ServerFault) {
        let mut state = self.state();
        let at = state.requests + after;
        state.faults.push((at, fault));
    }

    /// Closes every connection.
    pub fn break_all(&self) {
        for stream in self.state().open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn forget_sessions(&self) {
        self.state().sessions.clear();
    }

    /// Loses the memory and the sessions, as after a reboot.
    pub fn lose_memory(&self) {
        let mut state = self.state();
        state.memory.fill(0);
        state.incarnation += 0x100;
        state.sessions.clear();
        drop(state);
        self.break_all();
    }

    pub fn executed(&self, opcode: Opcode) -> u64 {
        self.state().executed.get(&opcode).copied().unwrap_or(0)
    }

    pub fn word(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.state().memory[offset..offset + 8].try_into().unwrap())
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address);
        self.break_all();
    }
}

struct FakeConnection {
    stream: TcpStream,
    state: Arc<Mutex<FakeServerState>>,
    layout: Layout,
    index: usize,
    buffer: Vec<u8>,
}

impl FakeConnection {
    fn serve(mut self) {
        self.stream.set_nodelay(true).unwrap();
        self.state
            .lock()
            .unwrap()
            .open
            .push(self.stream.try_clone().unwrap());
        if let Some(session) = self.hello() {
            while self.request(session).is_some() {}
        }
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// The next whole frame, header and payload.
    fn frame(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some((header, rest)) = split_request(&self.buffer).unwrap() {
                let length = header.payload.get() as usize;
                if rest.len() >= length {
                    return Some(self.buffer.drain(..HEADER + length).collect());
                }
            }
            let mut bytes = [0; 16384];
            match self.stream.read(&mut bytes) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.buffer.extend_from_slice(&bytes[..count]),
            }
        }
    }

    fn hello(&mut self) -> Option<[u8; 16]> {
        let frame = self.frame()?;
        let (header, payload) = split_request(&frame).unwrap().unwrap();
        assert_eq!((header.opcode, header.id.get()), (Opcode::Hello as u8, 0));
        let mut state = self.state.lock().unwrap();
        state.hellos += 1;
        if state.deaf {
            drop(state);
            thread::sleep(Duration::from_secs(60));
            return None;
        }
        let (count, code) = state.refuse_hello;
        let requested = code
            .filter(|_| count > 0)
            .map(|code| Refusal::new(code, &state.refusal));
        state.refuse_hello.0 = count.saturating_sub(1);
        let parsed = match requested {
            Some(refusal) => Err(refusal),
            None => HelloRequest::parse(payload, &self.layout, self.index as u32),
        };
        let checked = parsed.and_then(|(hello, _)| match hello.incarnation.get() {
            known if known != 0 && known != state.incarnation => Err(Refusal::new(
                Code::MemoryLost,
                format!("this is {:x}", state.incarnation),
            )),
            _ => Ok(hello),
        });
        let hello = match checked {
            Ok(hello) => hello,
            Err(refusal) => {
                drop(state);
                self.refuse(Opcode::Hello as u8, 0, &refusal)?;
                return None;
            }
        };
        let resumed = state.sessions.contains_key(&hello.session);
        state.resumed += u64::from(resumed);
        let last = state.sessions.entry(hello.session).or_default().last;
        let reply = HelloReply::new(
            self.index as u32,
            state.incarnation,
            self.layout.share_size(),
            last,
            resumed,
        );
        let reply = HelloReply {
            features: state.features.into(),
            ..reply
        };
        drop(state);
        self.stream
            .write_all(ReplyHeader::new(Opcode::Hello as u8, 0, 48, 0).as_bytes())
            .ok()?;
        self.stream.write_all(reply.as_bytes()).ok()?;
        Some(hello.session)
    }

    fn refuse(&mut self, opcode: u8, id: u64, refusal: &Refusal) -> Option<()> {
        let header = ReplyHeader::refusal(opcode, id, refusal.code, refusal.message.len() as u32);
        let bytes = [header.as_bytes(), refusal.message.as_bytes()].concat();
        self.stream.write_all(&bytes).ok()?;
        if refusal.code.closes() {
            let _ = self.stream.shutdown(Shutdown::Write);
            while self
                .stream
                .read(&mut [0; 4096])
                .is_ok_and(|count| count > 0)
            {}
            return None;
        }
        Some(())
    }

    fn request(&mut self, session: [u8; 16]) -> Option<()> {
        let frame = self.frame()?;
        let (header, payload) = split_request(&frame).unwrap().unwrap();
        let request = Request::parse(&header, payload, self.layout.share_size()).unwrap();
        let state = Arc::clone(&self.state);
        let mut state = state.lock().unwrap();
        let number = state.requests;
        state.requests += 1;
        let due = state.faults.iter().position(|(at, _)| *at == number);
        let requested = due.map(|index| state.faults.swap_remove(index).1);
        let fault = requested.or_else(|| state.chaos.as_mut().and_then(|chaos| chaos(number)));
        match fault {
            Some(ServerFault::BreakBefore) => return None,
            Some(ServerFault::Refuse(code)) => {
                let refusal = Refusal::new(code, &state.refusal);
                drop(state);
                return self.refuse(header.opcode, header.id.get(), &refusal);
            }
            _ => {}
        }
        let (value, mut data) = state.execute(session, &header, request);
        let refusal = state.refusal.clone();
        drop(state);
        let mut reply = ReplyHeader::new(header.opcode, header.id.get(), data.len() as u32, value);
        let mut extra: &[u8] = &[];
        match fault {
            None
            | Some(ServerFault::BreakBefore | ServerFault::Refuse(_) | ServerFault::WrongMagic) => {
            }
            Some(ServerFault::BreakAfter) => return None,
            Some(ServerFault::BreakInReply) => {
                let bytes = [reply.as_bytes(), &data].concat();
                self.stream.write_all(&bytes[..bytes.len() - 1]).ok()?;
                return None;
            }
            Some(ServerFault::Stall) => {
                while self.frame().is_some() {}
                return None;
            }
            Some(ServerFault::WrongId) => reply.id += 1,
            Some(ServerFault::OtherData) => data.iter_mut().for_each(|byte| *byte ^= 1),
            Some(ServerFault::WrongOpcode) => reply.opcode ^= 1,
            Some(ServerFault::TooLong) => (reply.payload, extra) = (reply.payload + 1, &[0]),
            Some(ServerFault::Endless) => reply.payload = u32::MAX.into(),
            Some(ServerFault::UnknownCode) => {
                (reply.code, reply.payload) = (999.into(), (refusal.len() as u32).into());
                data = refusal.into_bytes();
            }
            Some(ServerFault::Twice) => self
                .stream
                .write_all(&[reply.as_bytes(), &data].concat())
                .ok()?,
        }
        let mut bytes = [reply.as_bytes(), &data, extra].concat();
        if fault == Some(ServerFault::WrongMagic) {
            bytes[0] = b'X';
        }
        self.stream.write_all(&bytes).ok()
    }
}

impl FakeServerState {
    fn execute(
        &mut self,
        session: [u8; 16],
        header: &RequestHeader,
        request: Request<'_>,
    ) -> (u64, Vec<u8>) {
        let opcode = Opcode::from_number(header.opcode).unwrap();
        let id = header.id.get();
        let (memory, status) = (&mut self.memory, &self.status);
        // The test may have made the server forget a session that is still connected. Its requests
        // are executed, but their results are not kept.
        let mut forgotten = FakeSession::default();
        let session = self.sessions.get_mut(&session).unwrap_or(&mut forgotten);
        if opcode.mutates() && id <= session.last {
            self.replayed += 1;
            assert!(
                session.last - id < WINDOW,
                "the client has more requests in flight than the window allows"
            );
            return (session.results[&id], Vec::new());
        }
        *self.executed.entry(opcode).or_default() += 1;
        let range =
            |extent: dsm_core::protocol::Extent| extent.offset() as usize..extent.end() as usize;
        let (mut value, mut data) = (0, Vec::new());
        match request {
            Request::Hello(_) => panic!("a second hello"),
            Request::Status => data = status.as_bytes().to_vec(),
            Request::Ping(payload) => data = payload.to_vec(),
            Request::Memory(MemoryOperation::Read(extent)) => data = memory[range(extent)].to_vec(),
            Request::Memory(MemoryOperation::Change(change)) => match change {
                MemoryChange::Write(extent, bytes) => memory[range(extent)].copy_from_slice(bytes),
                MemoryChange::Fill(extent, byte) => memory[range(extent)].fill(byte),
                MemoryChange::Copy { from, to } => {
                    memory.copy_within(range(from), to.offset() as usize);
                }
                MemoryChange::Atomic(word, atomic) => {
                    let word = &mut memory[range(word.extent())];
                    value = u64::read_from_bytes(word).unwrap();
                    if let Some(new) = atomic.apply(value) {
                        word.copy_from_slice(&new.to_le_bytes());
                    }
                }
            },
        }
        if opcode.mutates() {
            session.last = id;
            session.results.insert(id, value);
        }
        (value, data)
    }
}

pub const STATUS: &str = r#"{ "version": "0.1.0", "name": "fake", "index": 0, "address": "a:1", "pid": 4711,
  "uptime_seconds": 86400, "incarnation": "6f1d2a9c03b7e458", "fingerprint": "0123456789abcdef0123456789abcdef",
  "memory": "in use", "k": 65536, "overhead_bytes": 16777216,
  "connections": { "open": 3, "limit": 1024, "accepted": 17, "refused": 0, "threads": 5 },
  "sessions": { "used": 9, "limit": 4096, "evicted": 0 }, "operations": { "read": 1200 },
  "traffic": { "bytes_read": 1, "bytes_written": 2, "errors": 1, "replayed": 0 },
  "recovery": { "participants": 1, "repaired": 0, "redone_writes": 0 }, "latency": [],
  "operation_log": { "mode": "off", "written": 0, "lost": 0 }, "a key of a later release": 1 }"#;
