//! A raw TCP client: it sends any bytes, valid or not, so that a test can check a server's reply.

use dsm_core::layout::Layout;
use dsm_core::protocol::{
    Code, HEADER, HelloReply, HelloRequest, ReplyHeader, Request, split_reply,
};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

/// The longest time that a test waits for a condition or a reply. A longer wait is a failure.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A reply: its header, and its data or the text of a refusal.
#[derive(Debug, Clone)]
pub struct RawReply {
    /// The header.
    pub header: ReplyHeader,
    /// The data or the text.
    pub payload: Vec<u8>,
}

impl RawReply {
    /// The refusal's code, or `None` for success.
    pub fn code(&self) -> Option<Code> {
        Code::from_number(self.header.code.get())
    }

    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    /// Checks that this is a refusal with `code` whose text has each of `words`.
    #[track_caller]
    pub fn assert_refused(&self, code: Code, words: &[&str]) {
        assert_eq!(self.code(), Some(code), "{self:?}: {}", self.text());
        for word in words {
            assert!(
                self.text().contains(word),
                "{:?} does not say {word:?}",
                self.text()
            );
        }
    }
}

/// A connection to a server.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
}

impl Wire {
    /// Connects to `host:port` without sending anything.
    pub fn connect(address: &str) -> Self {
        Self::try_connect(address)
            .unwrap_or_else(|error| panic!("connecting to {address}: {error}"))
    }

    /// [`Wire::connect`], for a server that may refuse the connection.
    pub fn try_connect(address: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(TEST_TIMEOUT))?;
        stream.set_write_timeout(Some(TEST_TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    /// Connects, and completes a hello with a new session.
    pub fn greeted(layout: &Layout, index: usize) -> Self {
        let mut wire = Self::connect(&layout.addresses()[index]);
        wire.send(&hello(layout, index));
        let reply = wire.reply();
        assert_eq!(reply.code(), None, "hello was refused: {}", reply.text());
        HelloReply::read_from_bytes(&reply.payload)
            .expect("the reply to hello has its fixed length");
        wire
    }

    /// The TCP stream.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends raw bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the server takes the bytes");
    }

    /// Sends raw bytes to a server that may have closed the connection.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a request and waits for the reply.
    pub fn ask<'a>(&mut self, id: u64, request: impl Into<Request<'a>>) -> RawReply {
        self.send(&encoded(id, request));
        self.reply()
    }

    /// Waits for one reply.
    pub fn reply(&mut self) -> RawReply {
        self.try_reply().expect("a reply")
    }

    /// Waits for one reply. Fails when the connection closes, or no reply comes in time.
    pub fn try_reply(&mut self) -> std::io::Result<RawReply> {
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header)?;
        let (header, _) = split_reply(&header)
            .expect("the server's framing is sound")
            .expect("a whole header");
        let mut payload = vec![0; header.payload.get() as usize];
        self.stream.read_exact(&mut payload)?;
        Ok(RawReply { header, payload })
    }

    /// Checks that the server closes the connection. Ignores the bytes that it sends before.
    #[track_caller]
    pub fn assert_closed(&mut self) {
        let mut buffer = [0; 8192];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                    ) =>
                {
                    return;
                }
                Err(error) => panic!("the server should have closed the connection: {error}"),
            }
        }
    }
}

/// The bytes of a hello with a new session.
pub fn hello(layout: &Layout, index: usize) -> Vec<u8> {
    let mut session = [0; 16];
    getrandom::fill(&mut session).expect("the kernel gives random bytes");
    let index = u32::try_from(index).expect("an index is small");
    let mut payload = HelloRequest::new(index, session, 0, false)
        .as_bytes()
        .to_vec();
    payload.extend_from_slice(layout.canonical().as_bytes());
    encoded(0, Request::Hello(&payload))
}

/// The bytes of a request.
pub fn encoded<'a>(id: u64, request: impl Into<Request<'a>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.into().append_to(id, &mut bytes);
    bytes
}
