//! Messages of the agent protocol, encoded without the product's code, so that a test can send
//! malformed ones. `docs/agent-protocol.md` specifies them.

use super::Cluster;
use super::wire::TEST_TIMEOUT;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, socket};
use serde_json::{Value, json};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;

pub const CONTROL: u8 = 1;
pub const FRAME: u8 = 2;
pub const DATA: u8 = 3;

const HEADER: usize = 16;

/// A message's header with any values.
pub fn header(kind: u8, length: u32, checksum: u32) -> Vec<u8> {
    let mut bytes = b"DA".to_vec();
    bytes.extend([1, kind]);
    [length, checksum, 0]
        .iter()
        .for_each(|word| bytes.extend(word.to_le_bytes()));
    bytes
}

/// A valid message.
pub fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
    let checksum = if kind == FRAME {
        0
    } else {
        crc32c::crc32c(payload)
    };
    let mut bytes = header(kind, u32::try_from(payload.len()).unwrap(), checksum);
    bytes.extend(payload);
    bytes
}

/// A valid message with a request or a response.
#[allow(clippy::needless_pass_by_value)] // callers pass the result of `json!`
pub fn control(value: Value) -> Vec<u8> {
    message(CONTROL, value.to_string().as_bytes())
}

/// The kind and the payload of the next message.
pub fn receive(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; HEADER];
    stream.read_exact(&mut head)?;
    let mut payload = vec![0; u32::from_le_bytes(head[4..8].try_into().unwrap()) as usize];
    stream.read_exact(&mut payload)?;
    Ok((head[3], payload))
}

/// A fake master with one connection to an agent. The test sends each request.
pub struct FakeMaster(pub TcpStream);

impl FakeMaster {
    /// Connects without sending anything.
    pub fn connect(cluster: &Cluster, server: usize) -> Self {
        Self::new(TcpStream::connect(cluster.agent_address(server)).unwrap())
    }

    /// [`Self::connect`] from the loopback address `source`.
    pub fn connect_from(source: Ipv4Addr, cluster: &Cluster, server: usize) -> Self {
        let socket = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        bind(
            socket.as_raw_fd(),
            &SockaddrIn::from(SocketAddrV4::new(source, 0)),
        )
        .unwrap();
        let agent: SocketAddrV4 = cluster.agent_address(server).parse().unwrap();
        nix::sys::socket::connect(socket.as_raw_fd(), &SockaddrIn::from(agent)).unwrap();
        Self::new(TcpStream::from(socket))
    }

    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// Connects, and completes the hello.
    pub fn greeted(cluster: &Cluster, server: usize) -> Self {
        Self::connect(cluster, server).greet(cluster, server)
    }

    /// Completes the hello on this connection.
    pub fn greet(mut self, cluster: &Cluster, server: usize) -> Self {
        let answer =
            self.ask(json!({"hello": {"layout": cluster.layout().canonical(), "index": server}}));
        assert!(answer.get("welcome").is_some(), "{answer}");
        self
    }

    /// Connects, and takes the snapshot lock. Waits while another master has it.
    pub fn claimed(cluster: &Cluster, server: usize) -> Self {
        Self::claimed_for("snapshot", || Self::greeted(cluster, server))
    }

    /// Takes the snapshot lock for `purpose` on a connection from `greeted`.
    fn claimed_for(purpose: &str, greeted: impl Fn() -> Self) -> Self {
        let mut claimed = None;
        super::wait_for("the snapshot lock is free", TEST_TIMEOUT, || {
            let mut caller = greeted();
            let answer = caller.ask(json!({"claim": {"purpose": purpose, "id": "test"}}));
            claimed = answer.get("claimed").map(|_| caller);
            assert!(
                claimed.is_some() || answer["refused"]["reason"] == "underway",
                "{answer}"
            );
            claimed.is_some()
        });
        claimed.unwrap()
    }

    /// Connects, takes the snapshot lock, and freezes the segment for as long as the agent allows.
    pub fn frozen(cluster: &Cluster, server: usize) -> Self {
        let mut caller = Self::claimed(cluster, server);
        assert_eq!(
            caller.ask(json!({"freeze": {"lease_us": u64::MAX}})),
            json!({"frozen": {"shut": false}})
        );
        caller
    }

    /// Connects from `source`, takes the snapshot lock for a restore, and closes the memory.
    pub fn shut(source: Ipv4Addr, cluster: &Cluster, server: usize) -> Self {
        let greeted = || Self::connect_from(source, cluster, server).greet(cluster, server);
        let mut caller = Self::claimed_for("restore", greeted);
        let answer = caller.ask(json!({"freeze": {"lease_us": u64::MAX}}));
        assert!(answer.get("frozen").is_some(), "{answer}");
        assert_eq!(caller.ask(json!("shut")), json!("shut"));
        caller
    }

    /// Connects, takes the snapshot lock, freezes the segment, and makes the cut.
    pub fn cut(cluster: &Cluster, server: usize) -> Self {
        let mut caller = Self::frozen(cluster, server);
        let answer = caller.ask(json!({"cut": {"copy_area": u64::MAX}}));
        assert!(answer.get("cut").is_some(), "{answer}");
        caller
    }

    /// Sends raw bytes. Ignores the error when the agent has closed the connection.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    /// Sends a request and returns the response.
    pub fn ask(&mut self, value: Value) -> Value {
        self.send(&control(value));
        self.answer().expect("a response")
    }

    /// The next response; `None` when the connection is closed.
    pub fn answer(&mut self) -> Option<Value> {
        let (kind, payload) = match receive(&mut self.0) {
            Ok(message) => message,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                panic!("the agent sends nothing and keeps the connection open")
            }
            Err(_) => return None,
        };
        assert_eq!(kind, CONTROL, "{payload:?}");
        Some(serde_json::from_slice(&payload).unwrap())
    }

    /// Waits until the connection is closed. Returns the reason and the text of the last refusal.
    pub fn refusal(&mut self) -> Option<(String, String)> {
        let mut found = None;
        while let Some(answer) = self.answer() {
            let text = |key| {
                answer["refused"][key]
                    .as_str()
                    .unwrap_or_else(|| panic!("{answer}"))
                    .to_owned()
            };
            found = Some((text("reason"), text("message")));
        }
        found
    }
}
