//! Replies and refusals, encoded into the output buffer of a connection. No I/O.

use super::buffer::{Buffer, OutOfMemory};
use dsm_core::protocol::{
    Code, HEADER, MAX_PAYLOAD, MAX_REFUSAL_TEXT, Refusal, ReplyHeader, RequestHeader,
};
use dsm_core::segment::AccessError;
use zerocopy::IntoBytes;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was answered, perhaps with a refusal; the next one can be executed.
    Reply,
    /// Nothing was done: it waits for the end of a freeze, and is to be handled again then.
    Park,
    /// It was refused with a code that closes the connection.
    Close,
}

/// Appends the header of a reply and makes room for its `payload` bytes, which the caller appends.
#[inline]
pub(super) fn append(
    output: &mut Buffer,
    header: &RequestHeader,
    payload: usize,
    value: u64,
) -> Result<(), Refusal> {
    let head = self::header(header, payload, value)?;
    // Reserve room for the whole reply first: once its header announces a payload, a refusal cannot
    // replace that payload.
    output.reserve(HEADER + payload).map_err(busy)?;
    output.append(head.as_bytes()).map_err(busy)
}

#[inline]
pub(super) fn header(
    header: &RequestHeader,
    payload: usize,
    value: u64,
) -> Result<ReplyHeader, Refusal> {
    let payload = u32::try_from(payload)
        .ok()
        .filter(|payload| *payload <= MAX_PAYLOAD);
    let payload =
        payload.ok_or_else(|| Refusal::new(Code::Internal, "the reply is too long for a frame"))?;
    Ok(ReplyHeader::new(
        header.opcode,
        header.id.get(),
        payload,
        value,
    ))
}

/// Appends a refusal. When there is no memory for it, the connection closes without one.
pub(super) fn refuse(output: &mut Buffer, header: &RequestHeader, refusal: &Refusal) -> Outcome {
    let cut = (0..=MAX_REFUSAL_TEXT.min(refusal.message.len()))
        .rfind(|cut| refusal.message.is_char_boundary(*cut));
    let text = &refusal.message[..cut.unwrap_or(0)];
    // At most MAX_REFUSAL_TEXT.
    #[allow(clippy::cast_possible_truncation)]
    let reply = ReplyHeader::refusal(
        header.opcode,
        header.id.get(),
        refusal.code,
        text.len() as u32,
    );
    let written = output
        .append(reply.as_bytes())
        .and_then(|()| output.append(text.as_bytes()));
    if written.is_err() || refusal.code.closes() {
        Outcome::Close
    } else {
        Outcome::Reply
    }
}

/// The refusal for a request that could not access the memory of server `index`. `incarnation` is
/// the memory that the client knew at its hello; zero when there was none.
pub(super) fn no_access(error: AccessError, index: u32, incarnation: u64) -> Refusal {
    match error {
        AccessError::Waiting => Refusal::new(
            Code::Restoring,
            format!(
                "server {index} is waiting for restore: its memory was lost. Restore a snapshot (dsmctl snapshot \
                 restore), or begin with zeros (dsmctl memory accept-empty)"
            ),
        ),
        // `LocalAccessDenied` is returned to local clients only, never to a worker of the server.
        AccessError::Restoring | AccessError::LocalAccessDenied => Refusal::new(
            Code::Restoring,
            format!(
                "server {index} is waiting for restore: a restore is in progress. If it was interrupted, run \
                 dsmctl snapshot restore again"
            ),
        ),
        // `DeadlinePassed` is returned to workers with a deadline only; those of the server have none.
        // A request that finds the memory frozen is parked.
        AccessError::PageLockTimeout { pid: 0 }
        | AccessError::Frozen
        | AccessError::DeadlinePassed(_) => {
            Refusal::new(Code::Busy, format!("server {index}: {error}"))
        }
        AccessError::PageLockTimeout { pid } => Refusal::new(
            Code::Busy,
            format!(
                "process {pid} on the host of server {index} holds these pages and makes no progress: if it was stopped, \
                 continue it (kill -CONT {pid}) or end it"
            ),
        ),
        // The memory was waiting for its restore at the hello, so this client knew no incarnation.
        AccessError::Replaced if incarnation == 0 => Refusal::new(
            Code::Restoring,
            format!("the memory of server {index} has just been restored: try again"),
        ),
        AccessError::Replaced => Refusal::new(
            Code::MemoryLost,
            format!(
                "memory lost: the client knew incarnation {incarnation:016x}, and a snapshot has replaced that memory since"
            ),
        ),
    }
}

pub(super) fn superseded() -> Refusal {
    Refusal::new(
        Code::Superseded,
        "a newer connection has taken this session over",
    )
}

pub(super) fn busy(_: OutOfMemory) -> Refusal {
    let message = "the server's buffer memory is in use: try again, or raise limits.buffer_memory in mcomp.cfg";
    Refusal::new(Code::Busy, message)
}
