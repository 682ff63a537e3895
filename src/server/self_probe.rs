//! The self-probe: a hello and a read of the first bytes of the segment, sent to the request
//! handler as a client's requests are.
//!
//! The probe has its own worker and thread. It needs no address, no descriptor and no connection
//! slot, so that it fails neither when the network is down nor when all connections are in use.

use super::buffer::Buffer;
use super::context::Context;
use super::executor::Executor;
use super::request_handler::{RequestHandler, RequestPayload};
use dsm_core::protocol::{
    Code, Extent, HEADER, HelloReply, HelloRequest, MemoryOperation, Refusal, Request, split_reply,
};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use zerocopy::IntoBytes;

/// Bytes that the probe reads.
const READ: u64 = 8;

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    /// No reply in time.
    #[error("a read of the memory was not answered within {0:?}")]
    TimedOut(Duration),
    /// The thread of the probe has ended.
    #[error("the thread of the self-probe has ended")]
    Ended,
    /// A wrong reply.
    #[error("the reply to {request} is wrong: {found}")]
    Wrong {
        /// The request.
        request: &'static str,
        /// The reply.
        found: String,
    },
    /// The request or its reply cannot be encoded or decoded.
    #[error("{0}")]
    Refused(#[from] Refusal),
}

/// The watchdog's handle of the thread that probes.
pub(super) struct SelfProbe {
    requests: SyncSender<()>,
    results: Receiver<Result<(), ProbeError>>,
    /// The last probe has no result yet.
    is_pending: bool,
}

impl SelfProbe {
    /// Starts the thread. In logs it appears as a client at `address`.
    pub(super) fn start(context: &Arc<Context>, address: SocketAddr) -> io::Result<Self> {
        let mut session = [0; 16];
        getrandom::fill(&mut session).map_err(io::Error::other)?;
        let mut executor =
            Executor::new(context, context.segment.worker().map_err(io::Error::other)?);
        let (requests, requested) = sync_channel(1);
        let (result, results) = sync_channel(1);
        std::thread::Builder::new()
            .name("dsm-probe".to_owned())
            .spawn(move || {
                for () in requested {
                    if result.send(probe(&mut executor, address, session)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            requests,
            results,
            is_pending: false,
        })
    }

    /// Probes the server, and waits for the result at most `timeout`. A probe that timed out stays
    /// pending: its late result counts for the next call, since the server has recovered.
    pub(super) fn probe(&mut self, timeout: Duration) -> Result<(), ProbeError> {
        if !self.is_pending {
            self.requests.send(()).map_err(|_| ProbeError::Ended)?;
            self.is_pending = true;
        }
        let result = self
            .results
            .recv_timeout(timeout)
            .map_err(|error| match error {
                RecvTimeoutError::Timeout => ProbeError::TimedOut(timeout),
                RecvTimeoutError::Disconnected => ProbeError::Ended,
            })?;
        self.is_pending = false;
        result
    }
}

fn probe(
    executor: &mut Executor,
    address: SocketAddr,
    session: [u8; 16],
) -> Result<(), ProbeError> {
    let context = Arc::clone(&executor.context);
    let mut handler = RequestHandler::new(Arc::clone(&context), address);
    let mut execute = |id, request: Request<'_>| {
        let mut output = Buffer::spare(Arc::clone(&context.budget));
        let (header, payload) = request.encode(id);
        handler.handle(
            executor,
            &header,
            RequestPayload::Buffered(payload.as_ref()),
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
    match execute(
        0,
        Request::Hello(&[hello.as_bytes(), text.as_bytes()].concat()),
    )? {
        (0, body) if body.len() == size_of::<HelloReply>() => {}
        (code, _) if is_alive(code) => return Ok(()),
        (code, body) => return Err(wrong("hello", code, &body)),
    }
    match execute(
        1,
        MemoryOperation::Read(Extent::new(0, READ, context.segment.share_size())?).into(),
    )? {
        (0, body) if body.len() as u64 == READ => Ok(()),
        (code, _) if is_alive(code) => Ok(()),
        (code, body) => Err(wrong("a read", code, &body)),
    }
}

/// Whether a refusal comes from a server that works: its memory waits for a restore or was just
/// replaced; another process was stopped while it held the lock of the page, which a restart of
/// dsmd would not change; or dsmd is stopping.
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

fn wrong(request: &'static str, code: u16, body: &[u8]) -> ProbeError {
    let found = if code == 0 {
        format!("{} bytes", body.len())
    } else {
        String::from_utf8_lossy(body).into_owned()
    };
    ProbeError::Wrong { request, found }
}
