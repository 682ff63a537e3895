//! A fake snapshot agent: it follows the protocol up to a given step, and misbehaves there.
#![allow(clippy::cast_possible_truncation)] // the numbers of tests are small

use crate::Cluster;
use crate::messages::{CONTROL, DATA, FRAME, control, header, message, receive};
use dsm_snapshot::{FRAME_HEADER, MAX_FRAME};
use serde_json::json;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The time between two bytes of [`AgentFault::Trickle`]: even the shortest response takes longer than
/// the master's timeout.
const BYTE_INTERVAL: Duration = Duration::from_millis(100);

/// The requests of a master, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentStep {
    Hello,
    Claim,
    Freeze,
    Cut,
    Send,
}

pub const STEPS: [AgentStep; 5] = [
    AgentStep::Hello,
    AgentStep::Claim,
    AgentStep::Freeze,
    AgentStep::Cut,
    AgentStep::Send,
];

/// What the agent does instead of sending a valid response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentFault {
    /// Sends a valid response. The pages in it may be invalid.
    None,
    /// Sends nothing, and keeps the connection open.
    Stall,
    HalfThenStall,
    LongThenStall,
    Trickle,
    Close,
    HalfThenClose,
    Refuse,
    OtherProtocol,
    Flood,
    Huge,
    HugeFrame,
    WrongChecksum,
    WrongVersion,
    UnknownKind,
    NotJson,
    UnknownResponse,
    OtherResponse,
    DataOutOfTurn,
    ShortFrame,
    /// Refuses. The message is [`HOSTILE_TEXT`], many times.
    HostileRefusal,
    /// Sends an unknown response, whose key is [`HOSTILE_TEXT`], many times.
    HostileResponse,
    /// Sends the response to another request, with [`HOSTILE_TEXT`] as a name in it.
    HostileName,
}

/// Text by which an attacker would control an administrator's terminal: it sets the title and
/// colours, clears the screen, imitates a line of the program, uses the C1 form of an escape
/// sequence, and reverses the direction of the text.
pub const HOSTILE_TEXT: &str =
    "\x1b]0;owned\x07 \x1b[31m \x1b[2J\r\nall is well\u{7f} \u{9b}31m \u{202e}gpj";

/// The faults whose response contains [`HOSTILE_TEXT`].
pub const WITH_HOSTILE_TEXT: [AgentFault; 3] = [
    AgentFault::HostileRefusal,
    AgentFault::HostileResponse,
    AgentFault::HostileName,
];

/// The faults that last until the master's timeout.
pub const SLOW: [AgentFault; 4] = [
    AgentFault::Stall,
    AgentFault::HalfThenStall,
    AgentFault::LongThenStall,
    AgentFault::Trickle,
];
/// The faults after which an agent counts as unavailable.
pub const UNAVAILABLE: [AgentFault; 3] = [
    AgentFault::Close,
    AgentFault::HalfThenClose,
    AgentFault::Refuse,
];
/// The faults that break the protocol.
pub const BROKEN: [AgentFault; 12] = [
    AgentFault::OtherProtocol,
    AgentFault::Flood,
    AgentFault::Huge,
    AgentFault::HugeFrame,
    AgentFault::WrongChecksum,
    AgentFault::WrongVersion,
    AgentFault::UnknownKind,
    AgentFault::NotJson,
    AgentFault::UnknownResponse,
    AgentFault::OtherResponse,
    AgentFault::DataOutOfTurn,
    AgentFault::ShortFrame,
];

/// How the fake agent behaves: its fault, and the step at which it has it.
#[derive(Debug, Clone)]
pub struct Behaviour {
    pub step: AgentStep,
    pub fault: AgentFault,
    /// The valid response to the last step: messages with frames, and the message that ends them.
    pub pages: Vec<u8>,
}

impl Behaviour {
    fn answer(&self, step: AgentStep) -> Vec<u8> {
        match step {
            AgentStep::Hello => control(json!({"welcome": {"hostname": "fake"}})),
            AgentStep::Claim => control(json!({"claimed": {"incarnation": 7}})),
            AgentStep::Freeze => control(json!({"frozen": {"shut": false}})),
            AgentStep::Cut => control(json!({"cut": {"pause_us": 1}})),
            AgentStep::Send => self.pages.clone(),
        }
    }

    /// Serves one master. An error means that the master has closed the connection.
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        for step in STEPS {
            receive(&mut stream)?;
            let valid = self.answer(step);
            if step == self.step {
                return self.misbehave(&mut stream, valid);
            }
            stream.write_all(&valid)?;
        }
        Ok(())
    }

    fn misbehave(&self, stream: &mut TcpStream, mut valid: Vec<u8>) -> std::io::Result<()> {
        let half = valid.len() / 2;
        let sent = match self.fault {
            AgentFault::None => valid,
            AgentFault::Stall => Vec::new(),
            AgentFault::Close => return Ok(()),
            AgentFault::HalfThenClose => return stream.write_all(&valid[..half]),
            AgentFault::HalfThenStall => valid[..half].to_vec(),
            AgentFault::LongThenStall => header(CONTROL, 1 << 20, 0),
            AgentFault::Trickle => {
                for byte in valid {
                    stream.write_all(&[byte])?;
                    std::thread::sleep(BYTE_INTERVAL);
                }
                Vec::new()
            }
            AgentFault::Refuse => {
                control(json!({"refused": {"reason": "failed", "message": "not today"}}))
            }
            AgentFault::OtherProtocol => {
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".to_vec()
            }
            AgentFault::Flood => vec![0xaa; 16 << 20],
            AgentFault::Huge => header(CONTROL, u32::MAX, 0),
            AgentFault::HugeFrame => header(FRAME, (FRAME_HEADER + 1) as u32 + MAX_FRAME, 0),
            AgentFault::WrongChecksum => {
                // A frame's message has no checksum. At the last step the last byte is of the
                // message that ends the frames.
                *valid.last_mut().unwrap() ^= 1;
                valid
            }
            AgentFault::WrongVersion => {
                valid[2] += 1;
                valid
            }
            AgentFault::UnknownKind => message(9, b"what is this?"),
            AgentFault::NotJson => message(CONTROL, b"{\"welcome\""),
            AgentFault::UnknownResponse => control(json!({"salute": {"hostname": "fake"}})),
            AgentFault::OtherResponse => control(json!("written")),
            AgentFault::DataOutOfTurn => message(DATA, &[0; 16]),
            AgentFault::ShortFrame => message(FRAME, &[0; FRAME_HEADER - 1]),
            AgentFault::HostileRefusal => control(
                json!({"refused": {"reason": "failed", "message": HOSTILE_TEXT.repeat(1000)}}),
            ),
            AgentFault::HostileResponse => control(json!({ HOSTILE_TEXT.repeat(1000): {}})),
            AgentFault::HostileName => control(
                json!({"recovered": {"name": HOSTILE_TEXT, "cut_time": 0, "incarnation": 1}}),
            ),
        };
        stream.write_all(&sent)?;
        // Keeps the connection open until the master closes it.
        std::io::copy(stream, &mut std::io::sink()).map(drop)
    }
}

/// A listening fake agent. Dropping this stops it.
pub struct FakeAgent {
    address: String,
    behaviour: Arc<Mutex<Behaviour>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeAgent {
    /// Listens on the endpoint of the agent of server `server`.
    pub fn start(cluster: &Cluster, server: usize, behaviour: Behaviour) -> Self {
        let address = cluster.agent_address(server).to_owned();
        let listener = TcpListener::bind(&address).unwrap();
        let (behaviour, stopping) = (
            Arc::new(Mutex::new(behaviour)),
            Arc::new(AtomicBool::new(false)),
        );
        let (own, stop) = (Arc::clone(&behaviour), Arc::clone(&stopping));
        let thread = std::thread::spawn(move || {
            for stream in listener
                .incoming()
                .take_while(|_| !stop.load(Ordering::SeqCst))
            {
                let (stream, behaviour) = (stream.unwrap(), own.lock().unwrap().clone());
                std::thread::spawn(move || behaviour.serve(stream));
            }
        });
        Self {
            address,
            behaviour,
            stopping,
            thread: Some(thread),
        }
    }

    /// Sets the behaviour for new connections.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the listener, so that it sees the flag.
        let _ = TcpStream::connect(&self.address);
        self.thread.take().map(JoinHandle::join);
    }
}
