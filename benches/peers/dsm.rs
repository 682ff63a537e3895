//! The client side of docs/protocol.md, with the frames of dsm-core. It does not use dsm-client,
//! whose guarantees (resending, deadlines) cost time: the benchmark compares servers.

use crate::protocol::{PeerReply, PeerTarget, Protocol, unexpected};
use crate::send_buffer::SendBuffer;
use dsm_config::Config;
use dsm_core::protocol::{
    HEADER, HelloReply, HelloRequest, Opcode, Request, RequestHeader, split_reply,
};
use std::io::{Read, Write};
use std::net::TcpStream;
use zerocopy::{FromBytes, IntoBytes};

/// The session of one connection.
pub(crate) struct Dsm {
    /// The id of the last request.
    id: u64,
}

impl Dsm {
    #[inline]
    fn put(
        &mut self,
        output: &mut SendBuffer<'_>,
        opcode: Opcode,
        offset: u64,
        operand: u64,
        payload: usize,
    ) {
        self.id += 1;
        let mut header = RequestHeader::new(opcode, self.id);
        header.offset = offset.into();
        header.operand = operand.into();
        header.payload = u32::try_from(payload).unwrap_or(u32::MAX).into();
        output.put(header.as_bytes());
    }
}

impl Protocol for Dsm {
    fn greet(mut stream: &TcpStream, target: &PeerTarget) -> Result<Self, String> {
        let path = target.config.as_ref().ok_or("dsmd needs --config")?;
        let layout = Config::load(path)
            .map_err(|error| error.to_string())?
            .layout;
        let mut session = [0; 16];
        getrandom::fill(&mut session).map_err(|error| format!("random numbers: {error}"))?;
        let mut payload = HelloRequest::new(0, session, 0, false).as_bytes().to_vec();
        payload.extend_from_slice(layout.canonical().as_bytes());
        let mut request = Vec::new();
        Request::Hello(&payload).append_to(0, &mut request);
        let failed = |error: std::io::Error| format!("hello to dsmd: {error}");
        stream.write_all(&request).map_err(failed)?;
        let mut header = [0; HEADER];
        stream.read_exact(&mut header).map_err(failed)?;
        let Ok(Some((header, _))) = split_reply(&header) else {
            return Err(unexpected(&header));
        };
        let mut reply = vec![0; header.payload.get() as usize];
        stream.read_exact(&mut reply).map_err(failed)?;
        if header.code.get() != 0 {
            return Err(String::from_utf8_lossy(&reply).into_owned());
        }
        let hello = HelloReply::read_from_bytes(&reply[..]).map_err(|error| error.to_string())?;
        Ok(Self {
            id: hello.last_executed.get(),
        })
    }

    #[inline]
    fn read(&mut self, output: &mut SendBuffer<'_>, _: u32, offset: u64, length: usize) {
        self.put(output, Opcode::Read, offset, length as u64, 0);
    }

    #[inline]
    fn write<'p>(&mut self, output: &mut SendBuffer<'p>, _: u32, offset: u64, data: &'p [u8]) {
        self.put(output, Opcode::Write, offset, 0, data.len());
        output.put_payload(data);
    }

    #[inline]
    fn reply(&mut self, bytes: &[u8]) -> Result<Option<PeerReply>, String> {
        let Some((header, rest)) = split_reply(bytes).map_err(|refusal| refusal.to_string())?
        else {
            return Ok(None);
        };
        let data = header.payload.get() as usize;
        if rest.len() < data {
            return Ok(None);
        }
        if header.code.get() != 0 {
            return Err(String::from_utf8_lossy(&rest[..data]).into_owned());
        }
        Ok(Some(PeerReply {
            length: HEADER + data,
            data: HEADER..HEADER + data,
            ticket: None,
        }))
    }
}
