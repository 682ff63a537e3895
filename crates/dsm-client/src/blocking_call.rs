//! A blocking call that concerns one server: one queue, without the lists of a pipeline.

use super::call::{Call, CallOutput};
use super::error::Error;
use super::pool::ClientState;
use super::pump::pump;
use super::server_queue::ServerQueue;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// When a call ends at the latest, and what its error then says.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallTime {
    /// Read before the call; it saves another reading of the clock.
    pub(super) now: Instant,
    pub(super) deadline: Instant,
    /// The client's timeout, for the message.
    pub(super) timeout: Duration,
}

/// Carries the call out over TCP.
pub(super) fn carry_out(
    shared: &Arc<ClientState>,
    server: usize,
    call: Call<'_>,
    time: CallTime,
) -> Result<CallOutput, Error> {
    let queue = ServerQueue::new(shared.take_connection(server, time.now));
    drive(queue, call, time)
}

/// The same for a status or a ping, which fails at once when the server's machine says that no
/// server is there.
pub(super) fn carry_out_until_answered(
    shared: &Arc<ClientState>,
    server: usize,
    call: Call<'_>,
    time: CallTime,
) -> Result<CallOutput, Error> {
    let mut queue = ServerQueue::new(shared.take_connection(server, time.now));
    queue.until_answered = true;
    // It reads no memory: it need not wait for the end of other sessions.
    queue.connection.to_supersede.clear();
    drive(queue, call, time)
}

fn drive<'a>(
    mut queue: ServerQueue<'a>,
    call: Call<'a>,
    time: CallTime,
) -> Result<CallOutput, Error> {
    queue.push(call);
    let queues = std::slice::from_mut(&mut queue);
    let finished = |queues: &[ServerQueue<'_>]| queues.iter().all(ServerQueue::front_is_finished);
    if pump(queues, time.now, time.deadline, finished).is_err() {
        queue.fail_at_deadline(time.timeout, Instant::now());
    }
    queue.take().unwrap_or(Ok(CallOutput::Done))
}
