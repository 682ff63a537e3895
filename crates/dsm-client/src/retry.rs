//! What becomes of requests when a connection ends: another attempt, or an error that says no more
//! than is known.

use super::error::{Error, ErrorKind, ServerName};
use super::lane::Lane;
use super::link::Phase;
use super::session::Sent;
use dsm_core::protocol::{Code, Refusal};
use std::time::{Duration, Instant};

/// Why a connection never came to be, if nothing said why.
pub(super) const NO_ANSWER: &str = "no answer to the attempt to connect";

/// What ended a connection.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It broke, or never came to be: worth another attempt.
    Broken(String),
    /// The server ended it with a refusal.
    Refused(Refusal),
    /// No further attempt can help.
    Fatal(Error),
    /// This process, which wanted no more of it than the reply to hello.
    HelloOnly,
}

impl Lane<'_> {
    /// Ends the connection, and leads to the next one or to the failure of what is unfinished.
    pub(super) fn recover(&mut self, trouble: Trouble, now: Instant) {
        (self.tail, self.body) = (&[], None);
        let reason = match trouble {
            Trouble::Fatal(error) => {
                let sent = self.link.sent_bytes;
                self.link.session.disconnected(sent);
                return self.fail(&error, now);
            }
            Trouble::Refused(refusal) => {
                // Nothing of what has no reply was executed on this connection: there is nothing to
                // doubt.
                self.link.session.disconnected(0);
                // Who makes no other attempt learns what the server said, not only that it is not
                // available.
                if !is_worth_a_retry(refusal.code) || self.is_last_attempt() {
                    let error = self.refused(refusal);
                    return self.fail(&error, now);
                }
                format!("it refused: {refusal}")
            }
            Trouble::Broken(reason) => reason,
            Trouble::HelloOnly => return self.link.reopen(now),
        };
        if self.is_last_attempt() {
            let error = self.unavailable(reason);
            return self.fail(&error, now);
        }
        self.link.disconnect(reason, now);
    }

    fn is_last_attempt(&self) -> bool {
        self.until_answered && self.link.attempts > 0 && !self.link.is_unanswered
    }

    /// The deadline has passed: everything unfinished fails.
    pub(super) fn give_up(&mut self, after: Duration, now: Instant) {
        let earlier = self.link.reason.take();
        let last = match self.link.phase {
            Phase::Down(_) => None,
            Phase::Connecting(_) => Some(NO_ANSWER),
            Phase::Greeting => Some("it took the connection, but did not answer hello"),
            Phase::Ready => Some("no reply"),
        };
        let reason = match (last, earlier) {
            (None, earlier) => earlier.unwrap_or_else(|| "not connected".into()),
            (Some(last), Some(earlier)) if earlier != last => {
                format!("{last}; before that: {earlier}")
            }
            (Some(last), _) => last.into(),
        };
        let sent = self.link.sent_bytes;
        self.link.session.disconnected(sent);
        let error = self.unavailable(format!("{reason}; gave up after {after:?}"));
        self.fail(&error, now);
    }

    /// Fails everything unfinished, changes of which there is no telling whether they were executed
    /// with the error that says so. The lane can be used again; its link has a new session.
    fn fail(&mut self, error: &Error, now: Instant) {
        if self.link.session.is_in_doubt() {
            let (server, id) = (self.server(), self.link.session.id);
            self.link.shared.abandon_session(server, id);
        }
        for sent in self.link.session.abandon() {
            let of_part = if sent.in_doubt() {
                self.uncertain(&sent, error)
            } else {
                error.clone()
            };
            self.job(sent.job).part_failed(of_part);
        }
        for job in self.jobs.iter_mut().filter(|job| !job.is_finished()) {
            job.fail(error.clone());
        }
        self.unfinished = 0;
        (self.tail, self.body) = (&[], None);
        self.link.reset(now);
    }

    /// Fails changes that the server cannot speak for.
    pub(super) fn doubt(&mut self, doubtful: &[Sent], reason: &str) {
        for sent in doubtful {
            let error = self.outcome_unknown(sent, reason);
            self.job(sent.job).part_failed(error);
            self.settle(sent.job);
        }
    }

    /// The error of a change that may have been executed. One that another attempt cannot mend
    /// keeps its kind, so that the caller makes none.
    fn uncertain(&self, sent: &Sent, error: &Error) -> Error {
        match error.kind() {
            ErrorKind::Unavailable => self.outcome_unknown(sent, error.reason()),
            _ if error.is_retryable() => self.outcome_unknown(sent, &error.to_string()),
            _ => error.clone().of_uncertain(sent.opcode.name()),
        }
    }

    fn outcome_unknown(&self, sent: &Sent, reason: &str) -> Error {
        self.name().outcome_unknown(sent.opcode.name(), reason)
    }

    pub(super) fn unavailable(&self, reason: String) -> Error {
        self.name().unavailable(reason)
    }

    pub(super) fn protocol(&self, message: impl Into<String>) -> Trouble {
        Trouble::Fatal(self.name().protocol(message.into()))
    }

    /// The error for a refusal.
    pub(super) fn refused(&self, refusal: Refusal) -> Error {
        self.name().refused(refusal)
    }

    pub(super) fn memory_lost(&self, message: String) -> Error {
        self.name().memory_lost(message)
    }

    pub(super) fn name(&self) -> ServerName<'_> {
        self.link.shared.name(self.server())
    }
}

/// Whether a connection that ended with this refusal may be followed by a better one.
fn is_worth_a_retry(code: Code) -> bool {
    use Code as C;
    matches!(
        code,
        C::TooManyConnections | C::Stopping | C::Superseded | C::TooSlow | C::Busy | C::Internal
    )
}
