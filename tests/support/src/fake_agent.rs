//! Something that listens where the agent of a server should, keeps to the rules up to a step, and
//! then does not.
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

/// Between two bytes: the shortest answer takes longer than the timeout.
const TRICKLE: Duration = Duration::from_millis(100);

/// What a master asks for, one after the other.
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

/// What to do instead of a sound answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is sound, as far as it goes: the pages may not be.
    None,
    /// Nothing, and the connection stays open.
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
    /// It refuses with [`EVIL`], many times.
    EvilRefusal,
    /// Its answer is not known, and is called [`EVIL`].
    EvilAnswer,
    /// It answers what was not asked, with [`EVIL`] as a name.
    EvilName,
}

/// What an agent that is none would have an administrator's terminal do: another title, colours, a
/// clean screen, a line that looks like the program's, the C1 form of an escape sequence, and text
/// that is read backwards.
pub const EVIL: &str =
    "\x1b]0;owned\x07 \x1b[31m \x1b[2J\r\nall is well\u{7f} \u{9b}31m \u{202e}gpj";

/// What says [`EVIL`].
pub const SPEAKING: [Fault; 3] = [Fault::EvilRefusal, Fault::EvilAnswer, Fault::EvilName];

/// What takes the master as long as it waits.
pub const SLOW: [Fault; 4] = [
    Fault::Silent,
    Fault::HalfThenSilent,
    Fault::LongThenSilent,
    Fault::Trickle,
];
/// An agent that does not do its part.
pub const UNAVAILABLE: [Fault; 3] = [Fault::Close, Fault::HalfThenClose, Fault::Refuse];
/// What is no agent.
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

/// How the fake agent behaves: what it does at a step instead of answering.
#[derive(Debug, Clone)]
pub struct Behaviour {
    pub step: Step,
    pub fault: Fault,
    /// The sound answer of the last step: messages with frames, and the word that these are all.
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

    /// Talks with one master. An error is a master that has gone.
    fn talk(&self, mut stream: TcpStream) -> std::io::Result<()> {
        for step in STEPS {
            receive(&mut stream)?;
            let sound = self.answer(step);
            if step == self.step {
                return self.misbehave(&mut stream, sound);
            }
            stream.write_all(&sound)?;
        }
        Ok(())
    }

    fn misbehave(&self, stream: &mut TcpStream, mut sound: Vec<u8>) -> std::io::Result<()> {
        let half = sound.len() / 2;
        let sent = match self.fault {
            Fault::None => sound,
            Fault::Silent => Vec::new(),
            Fault::Close => return Ok(()),
            Fault::HalfThenClose => return stream.write_all(&sound[..half]),
            Fault::HalfThenSilent => sound[..half].to_vec(),
            Fault::LongThenSilent => header(CONTROL, 1 << 20, 0),
            Fault::Trickle => {
                for byte in sound {
                    stream.write_all(&[byte])?;
                    std::thread::sleep(TRICKLE);
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
                // The last byte of a message that is no frame: at the last step, of the word that
                // all was sent.
                *sound.last_mut().unwrap() ^= 1;
                sound
            }
            Fault::WrongVersion => {
                sound[2] += 1;
                sound
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
        // Until the master closes.
        std::io::copy(stream, &mut std::io::sink()).map(drop)
    }
}

/// The listener, until this is dropped.
pub struct FakeAgent {
    address: String,
    behaviour: Arc<Mutex<Behaviour>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeAgent {
    /// Listens in place of the agent of server `server`.
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
                std::thread::spawn(move || behaviour.talk(stream));
            }
        });
        Self {
            address,
            behaviour,
            stopping,
            thread: Some(thread),
        }
    }

    /// How it behaves from the next connection on.
    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the listener, so that it sees that.
        let _ = TcpStream::connect(&self.address);
        self.thread.take().map(JoinHandle::join);
    }
}
