//! The one place where the library waits: poll(2) over the sockets of a call.

use super::server_connection::Phase;
use super::server_queue::ServerQueue;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::time::{Duration, Instant};

/// The deadline passed before the condition held.
#[derive(Debug)]
pub(super) struct DeadlinePassed;

/// Drives all queues until `done` holds, or the deadline passes. Servers work in parallel, since
/// each socket is served as soon as it is ready.
pub(super) fn pump(
    queues: &mut [ServerQueue<'_>],
    deadline: Instant,
    done: impl Fn(&[ServerQueue<'_>]) -> bool,
) -> Result<(), DeadlinePassed> {
    let mut now = Instant::now();
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
        wait(queues, wake.saturating_duration_since(now));
        now = Instant::now();
    }
}

/// Waits until a socket of a busy queue is ready, which it notes in the queue, or until `time` has
/// passed.
fn wait(queues: &[ServerQueue<'_>], time: Duration) {
    // Rounded up: to wake before the time would mean another turn for nothing.
    let timeout =
        PollTimeout::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(PollTimeout::MAX);
    let mut awaited = queues
        .iter()
        .filter_map(|queue| Some((queue, interest(queue)?)));
    match (awaited.next(), awaited.next()) {
        // One socket, as in most calls: this allocates nothing.
        (Some((queue, interest)), None) => {
            let mut sockets = [interest];
            poll_once(&mut sockets, timeout);
            queue
                .ready
                .set(sockets[0].revents().unwrap_or(PollFlags::empty()));
        }
        (first, second) => {
            let (queues, mut sockets): (Vec<_>, Vec<_>) =
                first.into_iter().chain(second).chain(awaited).unzip();
            poll_once(&mut sockets, timeout);
            for (queue, socket) in queues.iter().zip(&sockets) {
                queue
                    .ready
                    .set(socket.revents().unwrap_or(PollFlags::empty()));
            }
        }
    }
}

fn poll_once(sockets: &mut [PollFd<'_>], timeout: PollTimeout) {
    match poll(sockets, timeout) {
        // After a signal, the caller reads the clock and waits again.
        Ok(_) | Err(Errno::EINTR) => {}
        // The system is out of memory or descriptors, which may pass before the deadline.
        Err(_) => std::thread::sleep(Duration::from_millis(1)),
    }
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
