//! What happens to requests when a connection ends: they are sent again, or fail with an error that
//! says what is known of their outcome.

use super::error::{Error, ServerName};
use super::server_connection::Phase;
use super::server_queue::QueueMachine;
use super::session::Sent;
use dsm_core::protocol::{Code, Refusal};
use std::time::{Duration, Instant};

/// Why an attempt to connect failed, if nothing said why.
pub(super) const NO_ANSWER: &str = "no answer to the attempt to connect";

/// Why a connection was given up that is not closed.
pub(super) const SILENT_MACHINE: &str =
    "its machine, or the network to it, does not answer any more";

/// The remedy for a change that may have executed, and will not do so any more.
const READ: &str = "Read the memory before doing it again";

/// The remedy for a change that the server may still execute.
const READ_LATER: &str = "If dsmd was stopped, it may still take effect when dsmd continues: read the memory then, before \
                          doing it again";

/// What ended a connection.
#[derive(Debug)]
pub(super) enum DisconnectReason {
    /// It broke, or could not be opened; another attempt may succeed.
    Broken(String),
    /// The server ended it with a refusal.
    Refused(Refusal),
    /// No further attempt can help.
    Fatal(Error),
    /// This process: the connection was for a hello that superseded a session.
    Superseded,
}

impl QueueMachine<'_, '_> {
    /// Ends the connection. Then another attempt follows, or everything unfinished fails.
    pub(super) fn recover(&mut self, ended_by: DisconnectReason, now: Instant) {
        (self.queue.tail, self.queue.body) = (&[], None);
        let reason = match ended_by {
            DisconnectReason::Fatal(error) => {
                let sent = self.connection.sent_bytes;
                self.connection.session.disconnected(sent);
                return self.fail(&error, now);
            }
            DisconnectReason::Refused(refusal) => {
                // The server refuses after it has replied to all that it executed: nothing without
                // a reply was executed on this connection.
                self.connection.session.disconnected(0);
                // A caller that makes no other attempt learns what the server said, not only that
                // it is not available.
                if !is_worth_a_retry(refusal.code) || self.is_last_attempt() {
                    let error = self.refused(refusal);
                    return self.fail(&error, now);
                }
                format!("it refused: {refusal}")
            }
            DisconnectReason::Broken(reason) => reason,
            DisconnectReason::Superseded => return self.connection.reopen(now),
        };
        if self.is_last_attempt() {
            let error = self.unavailable(reason);
            return self.fail(&error, now);
        }
        self.connection.disconnect(reason, now);
    }

    fn is_last_attempt(&self) -> bool {
        self.queue.until_answered && self.connection.attempts > 0 && !self.connection.is_unanswered
    }

    /// The deadline has passed: everything unfinished fails.
    pub(super) fn fail_at_deadline(&mut self, after: Duration, now: Instant) {
        let earlier = self.connection.reason.take();
        let last = match self.connection.phase {
            Phase::Down(_) => None,
            Phase::Resolving => Some("the look-up of its name has not ended"),
            Phase::Connecting(_) => Some(NO_ANSWER),
            Phase::Handshake => Some("it took the connection, but did not answer hello"),
            Phase::Ready => Some("no reply"),
        };
        let reason = match (last, earlier) {
            (None, earlier) => earlier.unwrap_or_else(|| "not connected".into()),
            (Some(last), Some(earlier)) if earlier != last => {
                format!("{last}; before that: {earlier}")
            }
            (Some(last), _) => last.into(),
        };
        let sent = self.connection.sent_bytes;
        self.connection.session.disconnected(sent);
        let error = self.unavailable(format!("{reason}; gave up after {after:?}"));
        self.fail(&error, now);
    }

    /// The parent of this process made the connection, and reads its replies: everything unfinished
    /// fails here.
    #[cold]
    pub(super) fn fail_inherited(&mut self, now: Instant) {
        let sent = self.connection.sent_bytes;
        self.connection.session.disconnected(sent);
        let error = self.unavailable("the process that submitted it has forked".into());
        self.fail(&error, now);
    }

    /// Fails everything unfinished; a change that may have executed with an error that says so. The
    /// queue can be used again, with a connection that has a new session.
    fn fail(&mut self, error: &Error, now: Instant) {
        if self.connection.is_own() && self.connection.session.may_have_executed() {
            let (server, id) = (self.server(), self.connection.session.id);
            self.shared.abandon_session(server, id);
        }
        for sent in self.connection.session.abandon() {
            let of_part = if sent.may_have_executed() {
                self.uncertain(&sent, error)
            } else {
                error.clone()
            };
            self.queue.call(sent.call).part_failed(of_part);
        }
        for call in self
            .queue
            .calls
            .iter_mut()
            .filter(|call| !call.is_finished())
        {
            call.fail(error.clone());
        }
        self.queue.unfinished = 0;
        (self.queue.tail, self.queue.body) = (&[], None);
        self.reset(now);
    }

    /// Fails changes of which the server cannot tell whether it executed them.
    pub(super) fn fail_uncertain(&mut self, uncertain: &[Sent], reason: &str) {
        for sent in uncertain {
            let operation = sent.opcode.name();
            let error = self.name().outcome_unknown(operation, reason, READ);
            self.queue.call(sent.call).part_failed(error);
            self.complete(sent.call);
        }
    }

    /// The error of a change that may have executed. An error that another attempt cannot mend
    /// keeps its kind, so that the caller makes none.
    fn uncertain(&self, sent: &Sent, error: &Error) -> Error {
        let operation = sent.opcode.name();
        if error.is_retryable() {
            let name = self.name();
            name.outcome_unknown(operation, error.reason(), READ_LATER)
        } else {
            error.clone().of_uncertain(operation)
        }
    }

    pub(super) fn unavailable(&self, reason: String) -> Error {
        self.name().unavailable(reason)
    }

    pub(super) fn protocol(&self, message: impl Into<String>) -> DisconnectReason {
        DisconnectReason::Fatal(self.name().protocol(message.into()))
    }

    /// The error for a refusal.
    pub(super) fn refused(&self, refusal: Refusal) -> Error {
        self.name().refused(refusal)
    }

    pub(super) fn memory_lost(&self, message: String) -> Error {
        self.name().memory_lost(message)
    }

    pub(super) fn name(&self) -> ServerName<'_> {
        self.shared.name(self.server())
    }
}

/// Whether another connection may succeed after one that ended with this refusal.
fn is_worth_a_retry(code: Code) -> bool {
    use Code as C;
    matches!(
        code,
        C::TooManyConnections | C::Stopping | C::Superseded | C::TooSlow | C::Busy | C::Internal
    )
}
