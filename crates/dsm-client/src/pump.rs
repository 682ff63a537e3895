//! The one place where the library waits: for the sockets of a call with poll(2), or for the only one
//! with a receive that waits itself, which saves a system call.

use super::server_connection::{Phase, RECEIVE_WAIT};
use super::server_queue::ServerQueue;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::time::{Duration, Instant};

/// How often a call that waits checks whether the machines that it waits for are still there.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// With less time than this, poll(2) waits, and ends at the deadline. A receive does so only to within
/// [`RECEIVE_WAIT`], which the kernel rounds up.
const MIN_TIME: Duration = RECEIVE_WAIT.saturating_mul(2);

/// The deadline passed before the condition held.
#[derive(Debug)]
pub(super) struct DeadlinePassed;

/// Drives all queues until `done` holds, or the deadline passes. Servers work in parallel, since
/// each socket is served as soon as it is ready. The clock was `now` when it was read last.
pub(super) fn pump(
    queues: &mut [ServerQueue<'_>],
    mut now: Instant,
    deadline: Instant,
    done: impl Fn(&[ServerQueue<'_>]) -> bool,
) -> Result<(), DeadlinePassed> {
    loop {
        for queue in queues.iter_mut().filter(|queue| queue.is_busy()) {
            queue.drive(now);
        }
        if done(queues) {
            return Ok(());
        }
        if now >= deadline {
            return Err(DeadlinePassed);
        }
        let wake = queues
            .iter()
            .filter(|queue| queue.is_busy())
            .filter_map(ServerQueue::wake_at)
            .fold(deadline, Instant::min);
        let time = wake.saturating_duration_since(now);
        let is_quiet = match only_receiver(queues) {
            Some(queue) if time >= MIN_TIME => !queue.wait_for_reply(),
            _ => !wait(queues, time),
        };
        now = Instant::now();
        if is_quiet {
            break_mute(queues, now);
        }
    }
}

/// Ends the connections to machines that do not answer any more; their queues then open others.
#[cold]
fn break_mute(queues: &mut [ServerQueue<'_>], now: Instant) {
    for queue in queues.iter_mut().filter(|queue| queue.is_busy()) {
        queue.break_if_mute(now);
    }
}

/// The only busy queue, if all that it waits for are bytes of an established connection.
fn only_receiver<'q, 'a>(queues: &'q mut [ServerQueue<'a>]) -> Option<&'q mut ServerQueue<'a>> {
    let mut busy = queues.iter_mut().filter(|queue| queue.is_busy());
    match (busy.next(), busy.next()) {
        (Some(queue), None) => Some(queue).filter(|queue| queue.waits_for_bytes()),
        _ => None,
    }
}

/// Waits until a socket of a busy queue is ready, which it notes in the queue, or until `time` or
/// [`CHECK_INTERVAL`] has passed. Returns whether one may be ready.
fn wait(queues: &[ServerQueue<'_>], time: Duration) -> bool {
    // Rounded up: to wake before the time would mean another turn for nothing. It is less than a
    // second.
    let milliseconds = time.min(CHECK_INTERVAL).subsec_nanos().div_ceil(1_000_000);
    let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
    let mut awaited = queues
        .iter()
        .filter_map(|queue| Some((queue, interest(queue)?)));
    match (awaited.next(), awaited.next()) {
        // One socket, as in most calls: this allocates nothing.
        (Some((queue, interest)), None) => {
            let mut sockets = [interest];
            let may_be_ready = poll_once(&mut sockets, timeout);
            queue
                .ready
                .set(sockets[0].revents().unwrap_or(PollFlags::empty()));
            may_be_ready
        }
        (first, second) => {
            let (queues, mut sockets): (Vec<_>, Vec<_>) =
                first.into_iter().chain(second).chain(awaited).unzip();
            let may_be_ready = poll_once(&mut sockets, timeout);
            for (queue, socket) in queues.iter().zip(&sockets) {
                queue
                    .ready
                    .set(socket.revents().unwrap_or(PollFlags::empty()));
            }
            may_be_ready
        }
    }
}

/// Returns whether a socket may be ready: false when the time has passed.
fn poll_once(sockets: &mut [PollFd<'_>], timeout: PollTimeout) -> bool {
    match poll(sockets, timeout) {
        Ok(count) => return count != 0,
        // After a signal, the caller reads the clock and waits again.
        Err(Errno::EINTR) => {}
        // The system is out of memory or descriptors, which may pass before the deadline.
        Err(_) => std::thread::sleep(Duration::from_millis(1)),
    }
    true
}

fn interest<'l>(queue: &'l ServerQueue<'_>) -> Option<PollFd<'l>> {
    let flags = match queue.connection.phase {
        _ if !queue.is_busy() => return None,
        Phase::Down(_) => return None,
        Phase::Connecting(_) => PollFlags::POLLOUT,
        Phase::Handshake | Phase::Ready if queue.connection.blocked => {
            PollFlags::POLLIN | PollFlags::POLLOUT
        }
        Phase::Resolving | Phase::Handshake | Phase::Ready => PollFlags::POLLIN,
    };
    Some(PollFd::new(queue.connection.for_poll()?, flags))
}
