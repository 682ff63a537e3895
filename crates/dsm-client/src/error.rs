//! What a call of the library can fail with, and what that means for its caller.

use dsm_core::ServerIndex;
use dsm_core::layout::OutsideMemory;
use dsm_core::protocol::{Code, Refusal};
use std::fmt;
use std::ops::Range;

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The range is not inside the memory, or the source of a copy ends before it begins. Nothing
    /// was sent.
    OutsideMemory,
    /// An atomic's address is not a multiple of eight. Nothing was sent.
    Unaligned,
    /// The network map has no server with this index.
    NoSuchServer,
    /// The bytes asked for do not fit this process's memory. Nothing was sent.
    NoRoom,
    /// The server did not answer before the deadline. [`Client::status`](crate::Client::status) and
    /// [`Client::ping`](crate::Client::ping) do not wait for that where the server's machine says
    /// that no server is there. For a server on this host, whose shared memory the client uses:
    /// another process held the pages, a snapshot kept changes out, or the earlier parts of a long
    /// request took the time.
    Unavailable,
    /// A change was sent and no reply came: the deadline passed first, or the server has forgotten
    /// the session. Each part of the change took effect once or not at all, and may still do so
    /// after this error: a dsmd that was stopped carries out what it has received when it
    /// continues. The next call of the same client to this server ends that: after it, what has
    /// not taken effect never will, so that a read tells.
    OutcomeUnknown,
    /// The server's memory is not the one that this client knew: it started again from zero, or
    /// from a restore, and with it went every change made before. Stays until
    /// [`Client::accept_memory_loss`](crate::Client::accept_memory_loss).
    MemoryLost,
    /// The server's mcomp.cfg differs from this client's.
    LayoutDiffers,
    /// The server refused the request, for the reason that [`Error::refusal`] gives.
    Refused,
    /// What answers does not follow the protocol.
    Protocol,
}

impl ErrorKind {
    /// The name that `dsmctl --json` prints: lower case, words joined by hyphens.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OutsideMemory => "outside-memory",
            Self::Unaligned => "unaligned",
            Self::NoSuchServer => "no-such-server",
            Self::NoRoom => "no-room",
            Self::Unavailable => "unavailable",
            Self::OutcomeUnknown => "outcome-unknown",
            Self::MemoryLost => "memory-lost",
            Self::LayoutDiffers => "layout-differs",
            Self::Refused => "refused",
            Self::Protocol => "protocol",
        }
    }
}

/// Whether a request that failed may have changed the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Effect {
    /// It changed nothing, and will not.
    None,
    /// It may have taken effect, once; or a part of it, if it is longer than
    /// [`MAX_ATOMIC`](crate::layout::MAX_ATOMIC) bytes or concerns several servers. After
    /// [`ErrorKind::OutcomeUnknown`] it may still do so.
    Possible,
}

/// Why a request was not carried out, or is not known to be.
///
/// Its text names the server by index and address, what was found, and what to do.
///
/// ```
/// use dsm_client::{Client, Effect, Error};
/// use std::{thread::sleep, time::Duration};
///
/// /// Adds one. Tries up to ten times, a second apart, while that cannot count twice.
/// fn count(client: &Client, address: u64) -> Result<u64, Error> {
///     for _ in 1..10 {
///         match client.fetch_add(address, 1) {
///             Err(error) if error.is_retryable() && error.effect() == Effect::None => {
///                 sleep(Duration::from_secs(1));
///             }
///             outcome => return outcome,
///         }
///     }
///     client.fetch_add(address, 1)
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(Box<Contents>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Contents {
    kind: ErrorKind,
    server: Option<ServerIndex>,
    effect: Effect,
    refusal: Option<Code>,
    /// What went wrong, without the server and the remedy.
    reason: String,
    message: String,
}

impl Error {
    /// What kind of failure it was.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The server that it is about, if it is about one.
    #[must_use]
    pub fn server(&self) -> Option<ServerIndex> {
        self.0.server
    }

    /// Whether the request may have changed the memory. That of a read is always [`Effect::None`].
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// Whether the same request may succeed later without a change to the program, to mcomp.cfg or
    /// to the memory: a server may come back, or have less to do. Try again with a pause, since a
    /// server may refuse at once, and for a limited number of times. Where [`Error::effect`] is
    /// [`Effect::Possible`], a repeated request may take effect a second time: unless that does no
    /// harm, read the memory first.
    ///
    /// A memory that waits for a restore ([`Code::Restoring`]) is not retryable: it stays closed
    /// until an administrator restores a snapshot or accepts the loss.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.0.kind {
            ErrorKind::Unavailable | ErrorKind::OutcomeUnknown => true,
            ErrorKind::Refused => matches!(
                self.0.refusal,
                Some(
                    Code::TooManyConnections
                        | Code::Stopping
                        | Code::Superseded
                        | Code::TooSlow
                        | Code::Busy
                        | Code::Internal
                )
            ),
            _ => false,
        }
    }

    /// The protocol's code with which the server refused, if it did.
    #[must_use]
    pub fn refusal(&self) -> Option<Code> {
        self.0.refusal
    }

    /// What went wrong, without the server's name and the remedy, which the whole text has.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// The same error of a request that may have had this effect.
    pub(super) fn with_effect(mut self, effect: Effect) -> Self {
        self.0.effect = effect;
        self
    }

    /// The same error of a change that may have taken effect before the error came.
    pub(super) fn of_uncertain(mut self, operation: &str) -> Self {
        // The loss of the memory leaves nothing to be uncertain about.
        if self.0.kind != ErrorKind::MemoryLost {
            let contents = &mut *self.0;
            contents.message = format!(
                "{}. It is unknown whether the {operation} took effect",
                contents.message
            );
        }
        self.with_effect(Effect::Possible)
    }

    /// The error of a request of which two parts failed: the one that asks more of its caller.
    /// What either part may have done, the request may have done.
    pub(super) fn or_graver(self, other: Self) -> Self {
        let possible = [&self, &other]
            .iter()
            .any(|error| error.effect() == Effect::Possible);
        let error = if other.gravity() > self.gravity() {
            other
        } else {
            self
        };
        if possible {
            error.with_effect(Effect::Possible)
        } else {
            error
        }
    }

    /// How much it asks of its caller. An error that another attempt cannot mend comes before the
    /// others: it would be hidden from the caller, who would try again in vain.
    fn gravity(&self) -> u8 {
        match self.0.kind {
            ErrorKind::MemoryLost => 4,
            ErrorKind::LayoutDiffers => 3,
            _ if !self.is_retryable() => 2,
            ErrorKind::OutcomeUnknown => 1,
            _ => 0,
        }
    }

    fn new(kind: ErrorKind, reason: String, message: String) -> Self {
        Self(Box::new(Contents {
            kind,
            server: None,
            effect: Effect::None,
            refusal: None,
            reason,
            message,
        }))
    }

    pub(super) fn unaligned(address: u64) -> Self {
        let message = format!(
            "address {address} is not a multiple of 8: atomics work on aligned 8-byte words; the one there begins at {}",
            address & !7
        );
        Self::new(ErrorKind::Unaligned, message.clone(), message)
    }

    pub(super) fn outside_memory(outside: OutsideMemory) -> Self {
        let message = outside.to_string();
        Self::new(ErrorKind::OutsideMemory, message.clone(), message)
    }

    /// The error for the source of a copy that ends before it begins.
    pub(super) fn reversed(source: &Range<u64>) -> Self {
        let Range { start, end } = source;
        let message = format!(
            "the source of a copy begins at address {start} and ends before address {end}: give the lower address first"
        );
        Self::new(ErrorKind::OutsideMemory, message.clone(), message)
    }

    pub(super) fn no_such_server(server: usize, count: usize) -> Self {
        let last = count - 1;
        let message = format!(
            "there is no server {server}: the network map has {count}, with the indexes 0 to {last}"
        );
        let mut error = Self::new(ErrorKind::NoSuchServer, message.clone(), message);
        error.0.server = Some(server.into());
        error
    }

    pub(super) fn no_room(length: u64) -> Self {
        let message =
            format!("there is no room for {length} bytes in this process: read less at a time");
        Self::new(ErrorKind::NoRoom, message.clone(), message)
    }
}

/// A server as errors name it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerName<'a> {
    pub(super) server: usize,
    /// Its address in the network map.
    pub(super) address: &'a str,
}

impl ServerName<'_> {
    fn error(self, kind: ErrorKind, reason: String, says: impl FnOnce(&str) -> String) -> Error {
        let Self { server, address } = self;
        let message = format!("server {server} ({address}){}", says(&reason));
        let mut error = Error::new(kind, reason, message);
        error.0.server = Some(server.into());
        error
    }

    pub(super) fn unavailable(self, reason: String) -> Error {
        self.unavailable_until(
            reason,
            "Check that dsmd runs there and that the network leads to it",
        )
    }

    /// The error for a server that is not available until its user does what `remedy` says.
    pub(super) fn unavailable_until(self, reason: String, remedy: &str) -> Error {
        self.error(ErrorKind::Unavailable, reason, |reason| {
            format!(" is not available: {reason}. {remedy}")
        })
    }

    pub(super) fn outcome_unknown(self, operation: &str, reason: &str, remedy: &str) -> Error {
        let error = self.error(ErrorKind::OutcomeUnknown, reason.to_owned(), |reason| {
            format!(": it is unknown whether the {operation} took effect: {reason}. {remedy}")
        });
        error.with_effect(Effect::Possible)
    }

    pub(super) fn memory_lost(self, reason: String) -> Error {
        self.error(ErrorKind::MemoryLost, reason, |reason| {
            format!(
                " lost its memory since this client first saw it: {reason}. To use the new memory, start this program again \
                 or accept the loss"
            )
        })
    }

    pub(super) fn protocol(self, reason: String) -> Error {
        self.error(ErrorKind::Protocol, reason, |reason| {
            format!(" does not follow the dsm protocol: {reason}. Check that a dsmd of this release answers there")
        })
    }

    /// The error for a refusal.
    pub(super) fn refused(self, refusal: Refusal) -> Error {
        let code = refusal.code;
        let mut error = match code {
            Code::MemoryLost => self.memory_lost(refusal.message),
            Code::LayoutDiffers => self.error(ErrorKind::LayoutDiffers, refusal.message, |reason| {
                format!(
                    " refuses this client, whose mcomp.cfg is not the same; in what it says, \"ours\" is the server's and \
                     \"theirs\" this client's: {reason}"
                )
            }),
            _ => self.error(ErrorKind::Refused, refusal.message, |reason| format!(" refused ({}): {reason}", code.name())),
        };
        error.0.refusal = Some(code);
        error
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: ServerName<'_> = ServerName {
        server: 1,
        address: "10.0.0.2:7411",
    };

    #[test]
    fn an_error_tells_its_caller_whether_to_retry_and_whether_the_request_may_have_taken_effect() {
        let down = SERVER.unavailable("no answer".to_owned());
        assert_eq!(
            (down.kind(), down.effect(), down.is_retryable()),
            (ErrorKind::Unavailable, Effect::None, true)
        );
        assert_eq!(down.server(), Some(ServerIndex::new(1)));
        let unknown = SERVER.outcome_unknown("write", "no reply", "Read it");
        assert_eq!(
            (unknown.effect(), unknown.is_retryable()),
            (Effect::Possible, true)
        );
        let busy = SERVER.refused(Refusal::new(Code::Busy, "later"));
        assert_eq!(
            (busy.kind(), busy.refusal(), busy.is_retryable()),
            (ErrorKind::Refused, Some(Code::Busy), true)
        );
        let lost = SERVER.refused(Refusal::new(Code::MemoryLost, "another"));
        assert_eq!(
            (lost.kind(), lost.is_retryable()),
            (ErrorKind::MemoryLost, false)
        );
        assert!(!Error::unaligned(9).is_retryable());
        let waiting = SERVER.refused(Refusal::new(Code::Restoring, "it waits for a restore"));
        assert!(!waiting.is_retryable());
    }

    #[test]
    fn a_refusal_is_named_as_the_documents_name_it() {
        let refused = SERVER.refused(Refusal::new(Code::TooManyConnections, "it has 4"));
        assert_eq!(
            refused.to_string(),
            "server 1 (10.0.0.2:7411) refused (too-many-connections): it has 4"
        );
    }

    #[test]
    fn of_two_parts_that_failed_the_error_that_another_attempt_cannot_mend_is_told() {
        let down = SERVER.unavailable("no answer".to_owned());
        let unknown = SERVER.outcome_unknown("write", "no reply", "Read it");
        let lost = SERVER.memory_lost("it is another one".to_owned());
        let differs = SERVER.refused(Refusal::new(Code::LayoutDiffers, "k"));
        let broken = SERVER.protocol("no frame".to_owned());
        for grave in [&lost, &differs, &broken] {
            for (first, second) in [(&down, grave), (grave, &down)] {
                assert_eq!(&first.clone().or_graver(second.clone()), grave);
            }
            for (first, second) in [(&unknown, grave), (grave, &unknown)] {
                let told = first.clone().or_graver(second.clone());
                assert_eq!(
                    (told.kind(), told.effect()),
                    (grave.kind(), Effect::Possible)
                );
            }
        }
    }

    #[test]
    fn what_one_part_may_have_done_the_request_may_have_done() {
        let down = SERVER.unavailable("no answer".to_owned());
        let unknown = SERVER.outcome_unknown("write", "no reply", "Read it");
        assert_eq!(down.clone().or_graver(unknown.clone()), unknown);
        assert_eq!(unknown.clone().or_graver(down.clone()), unknown);
        let partly = down.clone().with_effect(Effect::Possible);
        let other = SERVER.refused(Refusal::new(Code::Internal, "an error"));
        assert_eq!(other.or_graver(partly).effect(), Effect::Possible);
    }
}
