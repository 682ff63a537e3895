//! Blocking calls of one request to a server: a queue each, without the lists of a pipeline.

use super::call::{Call, CallKind, CallOutput};
use super::error::Error;
use super::pool::ClientState;
use super::pump::pump;
use super::server_queue::ServerQueue;
use std::ops::Range;
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
    let mut queue = ServerQueue::new(shared.take_connection(server, time.now));
    queue.push(call);
    drive(std::slice::from_mut(&mut queue), time);
    outcome(queue)
}

/// Asks servers for a status or a ping, all at the same time; returns the answers in their order.
/// That of a server fails at once when its machine says that no server is there.
pub(super) fn ask(
    shared: &Arc<ClientState>,
    servers: Range<usize>,
    kind: impl Fn() -> CallKind<'static>,
    time: CallTime,
) -> impl Iterator<Item = Result<CallOutput, Error>> {
    let to_queue = |server| {
        let mut queue = ServerQueue::new(shared.take_connection(server, time.now));
        queue.until_answered = true;
        // It reads no memory: it need not wait for the end of other sessions.
        queue.connection.to_supersede.clear();
        queue.push(Call::new(kind(), 0, 0));
        queue
    };
    let mut queues: Vec<_> = servers.map(to_queue).collect();
    drive(&mut queues, time);
    queues.into_iter().map(outcome)
}

/// Drives queues of one call each until all have their outcome.
fn drive(queues: &mut [ServerQueue<'_>], time: CallTime) {
    let finished = |queues: &[ServerQueue<'_>]| queues.iter().all(ServerQueue::front_is_finished);
    if pump(queues, time.now, time.deadline, finished).is_err() {
        let now = Instant::now();
        for queue in queues.iter_mut().filter(|queue| queue.is_busy()) {
            queue.fail_at_deadline(time.timeout, now);
        }
    }
}

fn outcome(mut queue: ServerQueue<'_>) -> Result<CallOutput, Error> {
    queue.take().unwrap_or(Ok(CallOutput::Done))
}
