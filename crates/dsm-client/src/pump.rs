//! The one place where the library waits: for the sockets of a call with poll(2), or for the only one
//! with a receive that waits itself, which saves a system call.

use super::driver::QueueDriver;
use super::link::RECEIVE_WAIT;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::time::{Duration, Instant};

/// How often a call that waits checks whether the machines that it waits for are still there; more
/// often while nothing comes.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// With less time than this, poll(2) waits, and ends at the deadline. A receive does so only to within
/// [`RECEIVE_WAIT`], which the kernel rounds up.
const MIN_TIME: Duration = RECEIVE_WAIT.saturating_mul(2);

/// When a call ends at the latest, and what its error then says.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallTime {
    /// When the clock was read last; it saves another reading.
    pub(super) now: Instant,
    pub(super) deadline: Instant,
    /// The client's timeout, for the message.
    pub(super) timeout: Duration,
}

/// The deadline passed, and everything unfinished in the queues that were still pending has failed.
#[derive(Debug)]
pub(super) struct DeadlinePassed {
    /// The server of the first of these queues.
    pub(super) server: usize,
}

/// Drives all queues until none of them is pending, or the deadline passes: then everything
/// unfinished in those that are pending fails. Servers work in parallel, since each socket is served
/// as soon as it is ready. Returns the time.
pub(super) fn pump(
    drivers: &mut [QueueDriver<'_>],
    time: CallTime,
    is_pending: impl Fn(&QueueDriver<'_>) -> bool,
) -> Result<Instant, DeadlinePassed> {
    let mut now = time.now;
    for driver in drivers.iter_mut() {
        driver.leave_parent(now);
    }
    let mut checked = now;
    loop {
        for driver in drivers.iter_mut().filter(|driver| driver.queue().is_busy()) {
            driver.drive(now);
        }
        let Some(first) = drivers.iter().find(|driver| is_pending(driver)) else {
            return Ok(now);
        };
        if now >= time.deadline {
            let server = first.server();
            for driver in drivers.iter_mut().filter(|driver| is_pending(driver)) {
                driver.fail_at_deadline(time.timeout, now);
            }
            return Err(DeadlinePassed { server });
        }
        let wake = drivers
            .iter()
            .filter(|driver| driver.queue().is_busy())
            .filter_map(QueueDriver::next_timeout)
            .fold(time.deadline, Instant::min);
        let left = wake.saturating_duration_since(now);
        let may_be_ready;
        (may_be_ready, now) = match only_receiver(drivers) {
            Some(driver) if left >= MIN_TIME => driver.wait_for_reply(),
            _ => (wait(drivers, left), Instant::now()),
        };
        // Also while other servers, or signals, end each wait.
        if !may_be_ready || now.saturating_duration_since(checked) >= CHECK_INTERVAL {
            checked = now;
            break_mute(drivers, now);
        }
    }
}

/// Ends the connections to machines that do not answer any more; their queues then ask for others.
#[cold]
fn break_mute(drivers: &mut [QueueDriver<'_>], now: Instant) {
    for driver in drivers.iter_mut().filter(|driver| driver.queue().is_busy()) {
        driver.break_if_mute(now);
    }
}

/// The only busy queue, if all that it waits for are bytes of an established connection.
fn only_receiver<'q, 'a>(drivers: &'q mut [QueueDriver<'a>]) -> Option<&'q mut QueueDriver<'a>> {
    let mut busy = drivers.iter_mut().filter(|driver| driver.queue().is_busy());
    match (busy.next(), busy.next()) {
        (Some(driver), None) => Some(driver).filter(|driver| driver.awaits_bytes()),
        _ => None,
    }
}

/// Waits until a socket of a busy queue is ready, which it notes in its driver, or until `time` or
/// [`CHECK_INTERVAL`] has passed. Returns whether one may be ready.
fn wait(drivers: &[QueueDriver<'_>], time: Duration) -> bool {
    // Rounded up: to wake before the time would mean another turn for nothing. It is less than a
    // second.
    let milliseconds = time.min(CHECK_INTERVAL).subsec_nanos().div_ceil(1_000_000);
    let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
    let mut awaited = drivers
        .iter()
        .filter(|driver| driver.queue().is_busy())
        .filter_map(|driver| Some((driver, driver.for_poll()?)));
    match (awaited.next(), awaited.next()) {
        // One socket, as in most calls: this allocates nothing.
        (Some((driver, socket)), None) => {
            let mut sockets = [socket];
            let may_be_ready = poll_once(&mut sockets, timeout);
            driver.set_ready(sockets[0].revents().unwrap_or(PollFlags::empty()));
            may_be_ready
        }
        (first, second) => {
            let (drivers, mut sockets): (Vec<_>, Vec<_>) =
                first.into_iter().chain(second).chain(awaited).unzip();
            let may_be_ready = poll_once(&mut sockets, timeout);
            for (driver, socket) in drivers.iter().zip(&sockets) {
                driver.set_ready(socket.revents().unwrap_or(PollFlags::empty()));
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
