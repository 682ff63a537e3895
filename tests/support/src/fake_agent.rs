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

/// The time between two bytes of [`Fault::Trickle`]: even the shortest response takes longer than
/// the master's timeout.
const BYTE_INTERVAL: Duration = Duration::from_millis(100);

/// The requests of a master, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Hello,
    Claim,
    Freeze,
    Cut,
    Send,
}

pub const STEPS: [Step; 5] = [
    Step::Hello,
    Step::Claim,
    Step::Freeze,
    Step::Cut,
    Step::Send,
];

/// What the agent does instead of sending a valid response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Sends a valid response. The pages in it may be invalid.
    None,
    /// Sends nothing, and keeps the connection open.
    Silent,
    HalfThenSilent,
    LongThenSilent,
    Trickle,
    Close,
    HalfThenClose,
    Refuse,
    Garbage,
    Flood,
    Huge,
    HugeFrame,
    WrongChecksum,
    WrongVersion,
    UnknownKind,
    NotJson,
    UnknownAnswer,
    OtherAnswer,
    DataOutOfTurn,
    ShortFrame,
    /// Refuses. The message is [`EVIL`], many times.
    EvilRefusal,
    /// Sends an unknown response, whose key is [`EVIL`], many times.
    EvilAnswer,
    /// Sends the response to another request, with [`EVIL`] as a name in it.
    EvilName,
}

/// Text by which an attacker would control an administrator's terminal: it sets the title and
/// colours, clears the screen, imitates a line of the program, uses the C1 form of an escape
/// sequence, and reverses the direction of the text.
pub const EVIL: &str =
    "\x1b]0;owned\x07 \x1b[31m \x1b[2J\r\nall is well\u{7f} \u{9b}31m \u{202e}gpj";

/// The faults whose response contains [`EVIL`].
pub const SPEAKING: [Fault; 3] = [Fault::EvilRefusal, Fault::EvilAnswer, Fault::EvilName];

/// The faults that last until the master's timeout.
pub const SLOW: [Fault; 4] = [
    Fault::Silent,
    Fault::HalfThenSilent,
    Fault::LongThenSilent,
    Fault::Trickle,
];
/// The faults after which an agent counts as unavailable.
pub const UNAVAILABLE: [Fault; 3] = [Fault::Close, Fault::HalfThenClose, Fault::Refuse];
/// The faults that break the protocol.
pub const BROKEN: [Fault; 12] = [
    Fault::Garbage,
    Fault::Flood,
    Fault::Huge,
    Fault::HugeFrame,
    Fault::WrongChecksum,
    Fault::WrongVersion,
    Fault::UnknownKind,
    Fault::NotJson,
    Fault::UnknownAnswer,
    Fault::OtherAnswer,
    Fault::DataOutOfTurn,
    Fault::ShortFrame,
];

/// How the fake agent behaves: its fault, and the step at which it has it.
#[derive(Debug, Clone)]
pub struct Behaviour {
    pub step: Step,
    pub fault: Fault,
    /// The valid response to the last step: messages with frames, and the message that ends them.
    pub pages: Vec<u8>,
}

impl Behaviour {
    fn answer(&self, step: Step) -> Vec<u8> {
        match step {
            Step::Hello => control(json!({"welcome": {"hostname": "fake"}})),
            Step::Claim => control(json!({"claimed": {"incarnation": 7}})),
            Step::Freeze => control(json!({"frozen": {"shut": false}})),
            Step::Cut => control(json!({"cut": {"pause_us": 1}})),
            Step::Send => self.pages.clone(),
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
            Fault::None => valid,
            Fault::Silent => Vec::new(),
            Fault::Close => return Ok(()),
            Fault::HalfThenClose => return stream.write_all(&valid[..half]),
            Fault::HalfThenSilent => valid[..half].to_vec(),
            Fault::LongThenSilent => header(CONTROL, 1 << 20, 0),
            Fault::Trickle => {
                for byte in valid {
                    stream.write_all(&[byte])?;
                    std::thread::sleep(BYTE_INTERVAL);
                }
                Vec::new()
            }
            Fault::Refuse => {
                control(json!({"refused": {"reason": "failed", "message": "not today"}}))
            }
            Fault::Garbage => b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".to_vec(),
            Fault::Flood => vec![0xaa; 16 << 20],
            Fault::Huge => header(CONTROL, u32::MAX, 0),
            Fault::HugeFrame => header(FRAME, (FRAME_HEADER + 1) as u32 + MAX_FRAME, 0),
            Fault::WrongChecksum => {
                // A frame's message has no checksum. At the last step the last byte is of the
                // message that ends the frames.
                *valid.last_mut().unwrap() ^= 1;
                valid
            }
            Fault::WrongVersion => {
                valid[2] += 1;
                valid
            }
            Fault::UnknownKind => message(9, b"what is this?"),
            Fault::NotJson => message(CONTROL, b"{\"welcome\""),
            Fault::UnknownAnswer => control(json!({"salute": {"hostname": "fake"}})),
            Fault::OtherAnswer => control(json!("written")),
            Fault::DataOutOfTurn => message(DATA, &[0; 16]),
            Fault::ShortFrame => message(FRAME, &[0; FRAME_HEADER - 1]),
            Fault::EvilRefusal => {
                control(json!({"refused": {"reason": "failed", "message": EVIL.repeat(1000)}}))
            }
            Fault::EvilAnswer => control(json!({ EVIL.repeat(1000): {}})),
            Fault::EvilName => {
                control(json!({"recovered": {"name": EVIL, "cut_time": 0, "incarnation": 1}}))
            }
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
