//! The end of a connection that the server closes: a refusal, then what is in flight is discarded, so
//! that the client gets to read the refusal.

use super::direct_receive::DirectReceive;
use super::{Connection, ConnectionPhase, MAX_ROUNDS, Mode, NextStep};
use crate::server::executor::Executor;
use crate::server::reply::refuse;
use dsm_core::protocol::{Opcode, Refusal, RequestHeader, split_request};
use nix::errno::Errno;
use std::net::Shutdown;
use std::time::{Duration, Instant};

/// How long a refused client may take to read the refusal before the connection is closed.
const LINGER: Duration = Duration::from_secs(1);

impl Connection {
    /// A program that is no dsm client may never show the refusal, so the log names the peer that
    /// connects to the wrong port.
    pub(super) fn log_no_frame(&self, executor: &Executor, refusal: &Refusal) {
        if executor.context.log_limit.allows() {
            let peer = self.handler.peer();
            log::warn!(DSM_SERVER = executor.context.index, DSM_CLIENT:% = peer; "refused {peer}: {refusal}");
        }
    }

    /// Ends the connection with a refusal that answers no executed request.
    pub(super) fn refuse(&mut self, executor: &Executor, refusal: &Refusal) {
        executor.counters().error();
        self.end_with(refusal);
    }

    pub(super) fn end_with(&mut self, refusal: &Refusal) {
        let header = match split_request(self.input.as_slice()) {
            Ok(Some((header, _))) => header,
            _ => RequestHeader::new(Opcode::Hello, 0),
        };
        refuse(&mut self.output, &header, refusal);
        self.end();
        self.deadlines.output = Some(Instant::now() + LINGER);
    }

    /// Stops reading requests and frees the memory of those received.
    pub(super) fn end(&mut self) {
        self.phase = ConnectionPhase::Ending;
        self.input.clear();
        self.direct_receive = DirectReceive::Off;
    }

    pub(super) fn begin_discarding(&mut self) {
        self.phase = ConnectionPhase::Discarding;
        self.deadlines.output = Some(Instant::now() + LINGER);
        // If the peer has closed the connection already, the next receive reports it.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    pub(super) fn discard(&mut self, mode: Mode) -> NextStep {
        let mut scratch = [0; 4096];
        for _ in 0..MAX_ROUNDS {
            if self
                .deadlines
                .output
                .is_some_and(|deadline| Instant::now() >= deadline)
            {
                return NextStep::Close;
            }
            match self.socket.receive(&mut scratch, mode.flags()) {
                Ok(0) => return NextStep::Close,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return NextStep::Read,
                Err(_) => return NextStep::Close,
            }
        }
        NextStep::Again
    }
}
