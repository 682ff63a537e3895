//! Executes the requests of one connection and appends their replies. No I/O.
//!
//! It checks every request before it executes it, keeps the order of ids, and executes each change
//! of a session at most once, also when a client resends it on another connection.

use super::buffer::Buffer;
use super::context::Context;
use super::executor::Executor;
use super::operation_log::OperationLogEntry;
use super::reply::{self, Outcome};
use super::session::SessionAttachment;
use crate::logging::Event;
use dsm_core::printable::{self, printable};
use dsm_core::protocol::{
    Code, Extent, HEADER, HelloReply, HelloRequest, MemoryOperation, Opcode, Refusal, Request,
    RequestHeader, WINDOW,
};
use dsm_core::segment::{AccessError, RequestId, Worker};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use zerocopy::IntoBytes;

const HELLO_FIRST: &str = "the first request must be hello";

/// The protocol state of one connection.
pub(super) struct RequestHandler {
    context: Arc<Context>,
    peer: SocketAddr,
    session: Option<SessionAttachment>,
    /// The incarnation that the client was told at hello; zero while the memory waited for a
    /// restore.
    incarnation: u64,
    last_id: u64,
    /// The largest id that the window allows until the next receive; zero until the first request
    /// of what was received is answered.
    window_end: u64,
}

/// The payload of a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum RequestPayload<'a> {
    /// The bytes, in the input buffer.
    Buffered(&'a [u8]),
    /// The length of a write whose data is already in the slot of the executor's worker.
    InSlot(usize),
}

/// Why a request has no reply.
enum Unanswered {
    /// It is refused.
    Refused(Refusal),
    /// It waits for the end of a freeze.
    Parked,
}

impl From<Refusal> for Unanswered {
    #[inline]
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl RequestHandler {
    pub(super) fn new(context: Arc<Context>, peer: SocketAddr) -> Self {
        Self {
            context,
            peer,
            session: None,
            incarnation: 0,
            last_id: 0,
            window_end: 0,
        }
    }

    /// The client's address.
    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether the handshake is done.
    pub(super) fn is_open(&self) -> bool {
        self.session.is_some()
    }

    /// Whether a newer connection has taken over the session.
    pub(super) fn is_superseded(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(SessionAttachment::is_superseded)
    }

    /// To be called after each receive, once all replies so far were sent. The client cannot have
    /// seen a reply to what was received when it sent it, so all of it must fit one window.
    #[inline]
    pub(super) fn start_window(&mut self) {
        self.window_end = 0;
    }

    /// Checks the header of an incomplete request before memory is allocated for its payload:
    /// before the hello, only a hello is accepted.
    pub(super) fn check_header(&self, header: &RequestHeader) -> Result<(), Refusal> {
        if self.is_open() {
            return Ok(());
        }
        if header.opcode != Opcode::Hello as u8 {
            return Err(Refusal::new(Code::HelloExpected, HELLO_FIRST));
        }
        HelloRequest::check_length(header.payload.get() as usize)
    }

    /// Executes one request and appends its reply or its refusal to `output`, unless the request is
    /// parked.
    #[inline]
    pub(super) fn handle(
        &mut self,
        executor: &mut Executor,
        header: &RequestHeader,
        payload: RequestPayload<'_>,
        output: &mut Buffer,
    ) -> Outcome {
        let logged = Opcode::from_number(header.opcode)
            .filter(|opcode| executor.context.operation_log.wants(*opcode))
            .map(|opcode| (opcode, Instant::now()));
        let outcome = self.try_handle(executor, header, payload, output);
        if logged.is_none() && outcome.is_ok() {
            return Outcome::Reply;
        }
        self.finish(executor, header, logged, outcome, output)
    }

    /// Finishes a request that is logged or refused. A separate cold function, so that the path of
    /// most requests stays short.
    #[cold]
    fn finish(
        &self,
        executor: &Executor,
        header: &RequestHeader,
        logged: Option<(Opcode, Instant)>,
        outcome: Result<(), Unanswered>,
        output: &mut Buffer,
    ) -> Outcome {
        let outcome = match outcome {
            Ok(()) => Ok(()),
            Err(Unanswered::Refused(refusal)) => Err(refusal),
            Err(Unanswered::Parked) => return Outcome::Park,
        };
        if let Some((opcode, started)) = logged {
            self.log(executor, header, opcode, started, outcome.as_ref().err());
        }
        match outcome {
            Ok(()) => Outcome::Reply,
            Err(refusal) => {
                executor.counters().error();
                self.log_refused_request(header, &refusal);
                reply::refuse(output, header, &refusal)
            }
        }
    }

    fn try_handle(
        &mut self,
        executor: &mut Executor,
        header: &RequestHeader,
        payload: RequestPayload<'_>,
        output: &mut Buffer,
    ) -> Result<(), Unanswered> {
        let opcode = Opcode::from_number(header.opcode);
        if self.is_open() == (opcode == Some(Opcode::Hello)) {
            let message = if self.is_open() {
                "hello came twice"
            } else {
                HELLO_FIRST
            };
            return Err(Refusal::new(Code::HelloExpected, message).into());
        }
        let id = header.id.get();
        let before = (self.last_id, self.window_end);
        if self.is_open() {
            if id <= self.last_id || id > self.window_end && self.window_end > 0 {
                return Err(self.bad_id(id).into());
            }
            if self.window_end == 0 {
                self.window_end = id.saturating_add(WINDOW - 1);
            }
            self.last_id = id;
        }
        let k = executor.context.segment.share_size();
        let done = match payload {
            // `ref`: to move the request would cost more than to check it.
            RequestPayload::Buffered(bytes) => match Request::parse(header, bytes, k) {
                Ok(ref request) => self.execute(executor, header, request, output),
                Err(refusal) => Err(refusal.into()),
            },
            RequestPayload::InSlot(length) => {
                let extent = Extent::of_write(header, length, k)?;
                self.change(executor, header, length, output, |worker, request_id| {
                    worker.write_received(extent, Some(request_id)).map(|()| 0)
                })
            }
        };
        if matches!(done, Err(Unanswered::Parked)) {
            // It comes again with the same id.
            (self.last_id, self.window_end) = before;
        }
        done?;
        if let Some(opcode) = opcode {
            executor.counters().operation(opcode);
        }
        Ok(())
    }

    #[cold]
    fn bad_id(&self, id: u64) -> Refusal {
        let message = if id <= self.last_id {
            format!(
                "request id {id} came after {}: ids must increase",
                self.last_id
            )
        } else {
            format!(
                "request id {id} came before the reply to {}: the ids of requests without a reply span at most {WINDOW}",
                self.window_end - (WINDOW - 1)
            )
        };
        Refusal::new(Code::BadSequence, message)
    }

    #[inline]
    fn execute(
        &mut self,
        executor: &mut Executor,
        header: &RequestHeader,
        request: &Request<'_>,
        output: &mut Buffer,
    ) -> Result<(), Unanswered> {
        match request {
            Request::Memory(MemoryOperation::Read(extent)) => {
                let length = extent.length();
                let head = reply::header(header, length, 0)?;
                output.reserve(HEADER + length).map_err(reply::busy)?;
                let room = &mut output.room()[..HEADER + length];
                executor.worker.set_incarnation(self.incarnation);
                executor
                    .worker
                    .read(*extent, &mut room[HEADER..])
                    .map_err(|error| {
                        reply::no_access(error, self.context.index, self.incarnation)
                    })?;
                room[..HEADER].copy_from_slice(head.as_bytes());
                output.commit(HEADER + length);
                executor.counters().read(length);
                Ok(())
            }
            Request::Hello(payload) => Ok(self.hello(executor, header, payload, output)?),
            Request::Ping(payload) => {
                reply::append(output, header, payload.len(), 0)?;
                Ok(output.append(payload).map_err(reply::busy)?)
            }
            Request::Status => {
                let json = serde_json::to_vec(&executor.context.status()).map_err(|error| {
                    Refusal::new(
                        Code::Internal,
                        format!("the status has no JSON form: {error}"),
                    )
                })?;
                reply::append(output, header, json.len(), 0)?;
                Ok(output.append(&json).map_err(reply::busy)?)
            }
            Request::Memory(MemoryOperation::Change(change)) => self.change(
                executor,
                header,
                change.length(),
                output,
                |worker, request_id| worker.change(change, Some(request_id)),
            ),
        }
    }

    /// Executes a request that changes `bytes` bytes of memory, and appends its reply.
    #[inline]
    fn change(
        &self,
        executor: &mut Executor,
        header: &RequestHeader,
        bytes: usize,
        output: &mut Buffer,
        change: impl FnOnce(&mut Worker, RequestId) -> Result<u64, AccessError>,
    ) -> Result<(), Unanswered> {
        // Reserve room for the reply first: a change that has taken effect must be answered.
        output.reserve(HEADER).map_err(reply::busy)?;
        let old = self.execute_once(executor, header.id.get(), bytes, change)?;
        Ok(reply::append(output, header, 0, old)?)
    }

    /// Executes a change unless the session's record says that it has been executed. Returns the
    /// old value of an atomic operation, else zero.
    #[inline]
    fn execute_once(
        &self,
        executor: &mut Executor,
        id: u64,
        bytes: usize,
        change: impl FnOnce(&mut Worker, RequestId) -> Result<u64, AccessError>,
    ) -> Result<u64, Unanswered> {
        // While `lock` is held, no other connection executes requests of this session.
        let Some(lock) = self.session.as_ref().and_then(SessionAttachment::lock) else {
            return Err(reply::superseded().into());
        };
        let request_id = lock.request_id(id);
        if id <= executor.context.segment.last_executed(request_id.session) {
            executor.counters().replay();
            let result = executor.context.segment.executed_result(request_id);
            return result.ok_or_else(|| {
                let message =
                    format!("request {id} was executed too long ago: its result is not kept");
                Refusal::new(Code::BadSequence, message).into()
            });
        }
        executor.worker.set_incarnation(self.incarnation);
        let old = match change(&mut executor.worker, request_id) {
            Ok(old) => old,
            Err(AccessError::Frozen) => return Err(Unanswered::Parked),
            Err(error) => {
                let (index, incarnation) = (self.context.index, self.incarnation);
                return Err(reply::no_access(error, index, incarnation).into());
            }
        };
        executor.counters().written(bytes);
        Ok(old)
    }

    fn hello(
        &mut self,
        executor: &Executor,
        header: &RequestHeader,
        payload: &[u8],
        output: &mut Buffer,
    ) -> Result<(), Refusal> {
        let context = &executor.context;
        let (hello, _) = HelloRequest::parse(payload, &context.layout, context.index)
            .inspect_err(|refusal| self.log_refused_hello(refusal))?;
        let (known, incarnation) = (hello.incarnation.get(), context.incarnation());
        if known != 0 && incarnation != 0 && known != incarnation {
            let message = format!(
                "memory lost: the client knew incarnation {known:016x}, the memory of server {} is {incarnation:016x} now",
                context.index
            );
            return Err(Refusal::new(Code::MemoryLost, message));
        }
        if context.is_stopping() {
            return Err(Refusal::new(Code::Stopping, "the server is stopping"));
        }
        let attached = context.sessions.attach(hello.session);
        let attached = attached.ok_or_else(|| {
            Refusal::new(
                Code::Busy,
                "every session of this server has a connection: close a connection",
            )
        })?;
        (self.session, self.incarnation) = (Some(attached.attachment), incarnation);
        let body = HelloReply::new(
            context.index,
            incarnation,
            context.segment.share_size(),
            attached.last_executed,
            attached.resumed,
        );
        reply::append(output, header, size_of::<HelloReply>(), 0)?;
        output.append(body.as_bytes()).map_err(reply::busy)
    }

    fn log_refused_hello(&self, refusal: &Refusal) {
        if !self.context.log_limit.allows() {
            return;
        }
        let (server, peer) = (self.context.index, self.peer);
        let text = printable(&refusal.message, printable::MAX_LOG_TEXT);
        if refusal.code == Code::LayoutDiffers {
            log::warn!(
                MESSAGE_ID = Event::LayoutMismatch.id(), DSM_SERVER = server, DSM_CLIENT:% = peer;
                "refused {peer}: {text}"
            );
        } else {
            log::warn!(DSM_SERVER = server, DSM_CLIENT:% = peer; "refused {peer}: {text}");
        }
    }

    #[cold]
    fn log_refused_request(&self, header: &RequestHeader, refusal: &Refusal) {
        log::debug!(
            DSM_SERVER = self.context.index, DSM_CLIENT:% = self.peer,
            DSM_OPERATION = header.operation_name(),
            DSM_ADDRESS = self.context.base().saturating_add(header.offset.get());
            "refused a request of {}: {}", self.peer, printable(&refusal.message, printable::MAX_LOG_TEXT)
        );
    }

    fn log(
        &self,
        executor: &Executor,
        header: &RequestHeader,
        opcode: Opcode,
        started: Instant,
        refusal: Option<&Refusal>,
    ) {
        executor.context.operation_log.record(OperationLogEntry {
            time: SystemTime::now(),
            client: self.peer,
            opcode,
            address: executor.context.base().saturating_add(header.offset.get()),
            length: opcode.entry().range.length(header),
            outcome: refusal.map_or(0, |refusal| refusal.code as u16),
            microseconds: u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX),
        });
    }
}

impl Drop for RequestHandler {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            self.context.sessions.detach(session);
        }
    }
}
