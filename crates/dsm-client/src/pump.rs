//! The one place where the library waits: poll(2) over the sockets of a call.

use super::lane::Lane;
use super::link::Phase;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The deadline has passed, and what was awaited is not so.
#[derive(Debug)]
pub(super) struct DeadlinePassed;

/// Drives all lanes until `done` says that it is enough, or the deadline passes. Servers work in
/// parallel, since whatever socket is ready is served.
pub(super) fn pump(
    lanes: &mut [Lane<'_>],
    deadline: Instant,
    done: impl Fn(&[Lane<'_>]) -> bool,
) -> Result<(), DeadlinePassed> {
    let mut now = Instant::now();
    loop {
        for lane in lanes.iter_mut().filter(|lane| lane.is_busy()) {
            lane.drive(now);
        }
        if done(lanes) {
            return Ok(());
        }
        if now >= deadline {
            return Err(DeadlinePassed);
        }
        let wake = lanes
            .iter()
            .filter(|lane| lane.is_busy())
            .filter_map(Lane::wake_at)
            .fold(deadline, Instant::min);
        wait(lanes, wake.saturating_duration_since(now));
        now = Instant::now();
    }
}

/// Waits until a socket of a busy lane is ready, and tells the lane; or until the time is up.
fn wait(lanes: &[Lane<'_>], time: Duration) {
    // Rounded up: to wake before the time would mean to go round for nothing.
    let timeout =
        PollTimeout::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(PollTimeout::MAX);
    let mut awaited = lanes
        .iter()
        .filter_map(|lane| Some((lane, interest(lane)?)));
    match (awaited.next(), awaited.next()) {
        // What most calls are, without an allocation.
        (Some((lane, interest)), None) => {
            let mut sockets = [interest];
            poll_once(&mut sockets, timeout);
            lane.ready
                .set(sockets[0].revents().unwrap_or(PollFlags::empty()));
        }
        (first, second) => {
            let (lanes, mut sockets): (Vec<_>, Vec<_>) =
                first.into_iter().chain(second).chain(awaited).unzip();
            poll_once(&mut sockets, timeout);
            for (lane, socket) in lanes.iter().zip(&sockets) {
                lane.ready
                    .set(socket.revents().unwrap_or(PollFlags::empty()));
            }
        }
    }
}

fn poll_once(sockets: &mut [PollFd<'_>], timeout: PollTimeout) {
    match poll(sockets, timeout) {
        // After a signal, the caller looks at the clock and comes again.
        Ok(_) | Err(Errno::EINTR) => {}
        // Out of memory, or of descriptors to poll: the deadline decides how long to hope.
        Err(_) => std::thread::sleep(Duration::from_millis(1)),
    }
}

fn interest<'l>(lane: &'l Lane<'_>) -> Option<PollFd<'l>> {
    let flags = match lane.link.phase {
        _ if !lane.is_busy() => return None,
        Phase::Down(_) => return None,
        Phase::Connecting(_) => PollFlags::POLLOUT,
        Phase::Greeting | Phase::Ready if lane.link.blocked => {
            PollFlags::POLLIN | PollFlags::POLLOUT
        }
        Phase::Greeting | Phase::Ready => PollFlags::POLLIN,
    };
    Some(PollFd::new(lane.link.stream()?.as_fd(), flags))
}
