//! The baseline of the library: a connection whose owner sends a request and reads its reply, with
//! nothing else.

use dsm_client::Layout;
use dsm_core::protocol::{HEADER, HelloRequest, Opcode, Request, RequestHeader};
use dsm_core::protocol::{ReplyHeader, split_reply};
use std::io::{Read, Write};
use std::net::TcpStream;
use zerocopy::IntoBytes;

pub(crate) struct BareConnection {
    stream: TcpStream,
    /// The id of the last request.
    id: u64,
    output: Vec<u8>,
    input: Vec<u8>,
}

impl BareConnection {
    /// Connects to the first server of the layout, and says hello with a new session.
    pub(crate) fn open(layout: &Layout) -> Result<Self, String> {
        let failed = |error: std::io::Error| error.to_string();
        let stream = TcpStream::connect(&*layout.addresses()[0]).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let mut session = [0; 16];
        getrandom::fill(&mut session).map_err(|error| format!("random numbers: {error}"))?;
        let mut payload = HelloRequest::new(0, session, 0, false).as_bytes().to_vec();
        payload.extend_from_slice(layout.canonical().as_bytes());
        let mut connection = Self {
            stream,
            id: 0,
            output: Vec::new(),
            input: Vec::new(),
        };
        let (header, payload) = Request::Hello(&payload).encode(0);
        connection.output.extend_from_slice(header.as_bytes());
        connection.output.extend_from_slice(payload.as_ref());
        connection.exchange(size_of::<dsm_core::protocol::HelloReply>())?;
        Ok(connection)
    }

    pub(crate) fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), String> {
        self.put(Opcode::Read, offset, buffer.len() as u64, &[]);
        self.exchange(buffer.len())?;
        buffer.copy_from_slice(&self.input[HEADER..]);
        Ok(())
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), String> {
        self.put(Opcode::Write, offset, 0, data);
        self.exchange(0)
    }

    fn put(&mut self, opcode: Opcode, offset: u64, operand: u64, payload: &[u8]) {
        self.id += 1;
        let mut header = RequestHeader::new(opcode, self.id);
        header.offset = offset.into();
        header.operand = operand.into();
        header.payload = u32::try_from(payload.len()).unwrap_or(u32::MAX).into();
        self.output.clear();
        self.output.extend_from_slice(header.as_bytes());
        self.output.extend_from_slice(payload);
    }

    /// Sends what was put, and reads a reply with `payload` bytes.
    fn exchange(&mut self, payload: usize) -> Result<(), String> {
        let failed = |error: std::io::Error| error.to_string();
        self.stream.write_all(&self.output).map_err(failed)?;
        self.input.resize(HEADER + payload, 0);
        self.stream.read_exact(&mut self.input).map_err(failed)?;
        match split_reply(&self.input) {
            Ok(Some((ReplyHeader { id, code, .. }, _)))
                if (id.get(), code.get()) == (self.id, 0) =>
            {
                Ok(())
            }
            other => Err(format!("the server answered with {other:?}")),
        }
    }
}
