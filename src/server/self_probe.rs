//! A question to the server itself, as a client asks: hello, and a read of its first bytes. It
//! takes the way of a request from its header to its reply, with its own worker, on its own thread:
//! it needs no address, no descriptor and no place among the connections, so that neither a network
//! that is gone nor a crowd of clients keeps it from its answer.

use super::buffer::Buffer;
use super::context::Context;
use super::request_handler::{RequestHandler, Executor, RequestPayload};
use dsm_core::protocol::{
    Code, Extent, HEADER, HelloReply, HelloRequest, Operation, Refusal, Request, split_reply,
};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use zerocopy::IntoBytes;

/// Bytes that are read.
const READ: u64 = 8;

/// Why the server is not known to serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    /// It is stuck.
    #[error("a read of the memory was not answered within {0:?}")]
    TimedOut(Duration),
    /// The thread that asks is gone.
    #[error("the thread that asks it has ended")]
    Ended,
    /// It results, and not as it should.
    #[error("the reply to {question} is wrong: {found}")]
    Wrong {
        /// What was asked.
        question: &'static str,
        /// The reply.
        found: String,
    },
    /// No such question can be put.
    #[error("{0}")]
    Refused(#[from] Refusal),
}

/// The thread that asks, as the watchdog sees it.
pub(super) struct SelfProbe {
    requests: SyncSender<()>,
    results: Receiver<Result<(), ProbeError>>,
    /// The last question has no answer yet.
    is_open: bool,
}

impl SelfProbe {
    /// Starts the thread. In logs it is a client at this address.
    pub(super) fn start(context: &Arc<Context>, address: SocketAddr) -> io::Result<Self> {
        let mut session = [0; 16];
        getrandom::fill(&mut session).map_err(io::Error::other)?;
        let mut executor =
            Executor::new(context, context.segment.worker().map_err(io::Error::other)?);
        let (requests, asked) = sync_channel(1);
        let (answer, results) = sync_channel(1);
        std::thread::Builder::new()
            .name("dsm-probe".to_owned())
            .spawn(move || {
                for () in asked {
                    if answer.send(ask(&mut executor, address, session)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            requests,
            results,
            is_open: false,
        })
    }

    /// Asks, and waits for the answer for so long. A question that was not answered in time stays
    /// open, and its late answer is one too: then the server has come round.
    pub(super) fn ask(&mut self, timeout: Duration) -> Result<(), ProbeError> {
        if !self.is_open {
            self.requests.send(()).map_err(|_| ProbeError::Ended)?;
            self.is_open = true;
        }
        let answer = self
            .results
            .recv_timeout(timeout)
            .map_err(|error| match error {
                RecvTimeoutError::Timeout => ProbeError::TimedOut(timeout),
                RecvTimeoutError::Disconnected => ProbeError::Ended,
            })?;
        self.is_open = false;
        answer
    }
}

fn ask(executor: &mut Executor, address: SocketAddr, session: [u8; 16]) -> Result<(), ProbeError> {
    let context = Arc::clone(&executor.context);
    let mut handler = RequestHandler::new(Arc::clone(&context), address);
    let mut put = |id, operation: Operation<'_>| {
        let mut output = Buffer::spare(Arc::clone(&context.budget));
        let (header, payload) = Request { id, operation }.encode();
        handler.answer(
            executor,
            &header,
            RequestPayload::Held(payload.as_ref()),
            &mut output,
        );
        let code = split_reply(output.as_slice())?.map_or(0, |(header, _)| header.code.get());
        Ok::<_, ProbeError>((
            code,
            output.as_slice().get(HEADER..).unwrap_or_default().to_vec(),
        ))
    };
    let hello = HelloRequest::new(context.index, session, context.incarnation(), false);
    let text = context.layout.canonical();
    match put(
        0,
        Operation::Hello(&[hello.as_bytes(), text.as_bytes()].concat()),
    )? {
        (0, body) if body.len() == size_of::<HelloReply>() => {}
        (code, _) if is_alive(code) => return Ok(()),
        (code, body) => return Err(wrong("hello", code, &body)),
    }
    match put(
        1,
        Operation::Read(Extent::new(0, READ, context.segment.k())?),
    )? {
        (0, body) if body.len() as u64 == READ => Ok(()),
        (code, _) if is_alive(code) => Ok(()),
        (code, body) => Err(wrong("a read", code, &body)),
    }
}

/// Whether a refusal is one of a server that works: its memory waits for a restore, or was just
/// replaced; another process was stopped while it held the page, which a restart of this one does
/// not end; or it is about to stop.
fn is_alive(code: u16) -> bool {
    [
        Code::Restoring,
        Code::MemoryLost,
        Code::Busy,
        Code::Stopping,
    ]
    .map(|code| code as u16)
    .contains(&code)
}

fn wrong(question: &'static str, code: u16, body: &[u8]) -> ProbeError {
    let found = if code == 0 {
        format!("{} bytes", body.len())
    } else {
        String::from_utf8_lossy(body).into_owned()
    };
    ProbeError::Wrong { question, found }
}
