//! Runs the load: one or more threads, each with its connections.

use crate::connection::{PeerConnection, ReplyObserver};
use crate::plan::{Mix, RequestPlan, Shape};
use crate::protocol::{PeerTarget, Protocol, TIMEOUT};
use crate::server_process::ServerProcess;
use dsm_benches::pattern::BytePattern;
use dsm_service::cli::histogram::Histogram;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::MsgFlags;
use std::os::fd::AsFd;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// The maximum number of events of one `epoll_wait`.
const EVENTS: usize = 64;

/// The time between the last request and the measurement of idle connections.
const IDLE_DELAY: Duration = Duration::from_secs(1);

/// The number of slots that are checked before each measurement.
const CHECKED: u64 = 32;

/// The settings of a measurement.
pub(crate) struct LoadSettings<'p> {
    pub(crate) shape: Shape<'p>,
    pub(crate) mix: Mix,
    pub(crate) connections: usize,
    pub(crate) depth: u32,
    pub(crate) threads: usize,
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
}

/// The results of a measurement.
pub(crate) struct Measurement {
    pub(crate) latencies: Histogram,
    /// The server at the start and the end of the window, and the time between them.
    pub(crate) before: ServerProcess,
    pub(crate) after: ServerProcess,
    pub(crate) between: Duration,
}

/// Records the latencies of the replies that arrive between two instants.
struct MeasuringWindow {
    start: Instant,
    from: u64,
    to: u64,
    latencies: Histogram,
}

impl ReplyObserver for MeasuringWindow {
    const COMPARES: bool = false;

    #[inline]
    fn now(&self) -> u64 {
        nanoseconds(self.start.elapsed())
    }

    #[inline]
    fn done(&mut self, sent: u64, now: u64) {
        if self.from <= now && now < self.to {
            self.latencies.add(now - sent);
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Connects, warms up, measures.
pub(crate) fn run<P: Protocol>(
    target: &PeerTarget,
    load: &LoadSettings<'_>,
    server: u32,
) -> Result<Measurement, String> {
    let connect = |_| PeerConnection::<P>::connect(target, load.depth, load.shape.size);
    let mut peers = (0..load.connections)
        .map(connect)
        .collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    let (from, to) = (load.warm_up, load.warm_up + load.window);
    let each = load.connections.div_ceil(load.threads);
    std::thread::scope(|scope| {
        let (sender, results) = channel();
        let mut threads = 0;
        while !peers.is_empty() {
            let peers = peers.split_off(peers.len().saturating_sub(each));
            let plan = RequestPlan::random(load.shape, load.mix, threads);
            let window = MeasuringWindow {
                start,
                from: nanoseconds(from),
                to: nanoseconds(to),
                latencies: Histogram::new(),
            };
            let sender = sender.clone();
            // The receiver waits for every thread, or ends the process.
            scope.spawn(move || drop(sender.send(drive(peers, plan, window))));
            threads += 1;
        }
        let look = |at: Duration| {
            std::thread::sleep(at.saturating_sub(start.elapsed()));
            (start.elapsed(), ServerProcess::look(server))
        };
        let (first, before) = look(from);
        let (last, after) = look(to);
        let mut latencies = Histogram::new();
        for _ in 0..threads {
            match results.recv_timeout(TIMEOUT) {
                Ok(Ok(found)) => latencies.merge(&found.latencies),
                Ok(Err(message)) => give_up(&message),
                Err(_) => give_up(&format!(
                    "the server has not replied for {} s",
                    TIMEOUT.as_secs()
                )),
            }
        }
        Ok(Measurement {
            latencies,
            before: before?,
            after: after?,
            between: last.saturating_sub(first),
        })
    })
}

/// Ends the process, because threads that wait for a server cannot be stopped.
fn give_up(message: &str) -> ! {
    eprintln!("peers-load: {message}");
    std::process::exit(1)
}

fn drive<'p, P: Protocol>(
    peers: Vec<PeerConnection<'p, P>>,
    mut plan: RequestPlan<'p>,
    mut window: MeasuringWindow,
) -> Result<MeasuringWindow, String> {
    match <[_; 1]>::try_from(peers) {
        Ok([mut peer]) => {
            let to = window.to;
            drive_one(&mut peer, &mut plan, &mut window, to)?;
        }
        Err(peers) => drive_many(peers, &mut plan, &mut window)?,
    }
    Ok(window)
}

/// Drives one connection by blocking calls. It sends requests until `to` or the end of the plan,
/// and always waits for the replies: some servers crash when a client disconnects before.
fn drive_one<'p, P: Protocol>(
    peer: &mut PeerConnection<'p, P>,
    plan: &mut RequestPlan<'p>,
    observer: &mut impl ReplyObserver,
    to: u64,
) -> Result<(), String> {
    peer.send_requests(plan, observer.now())?;
    while peer.is_busy() {
        if observer.now() >= to {
            plan.end();
        }
        if peer.is_blocked() {
            // Wait for both directions: the server may not read more requests before this side has
            // read its replies, and the other way round.
            let mut interest = [PollFd::new(
                peer.stream.as_fd(),
                PollFlags::POLLIN | PollFlags::POLLOUT,
            )];
            poll(&mut interest, PollTimeout::NONE).map_err(|error| format!("poll: {error}"))?;
            peer.flush()?;
            peer.exchange(plan, observer, MsgFlags::MSG_DONTWAIT)?;
        } else {
            peer.exchange(plan, observer, MsgFlags::empty())?;
        }
    }
    Ok(())
}

/// Drives several connections by epoll.
fn drive_many<'p, P: Protocol>(
    mut peers: Vec<PeerConnection<'p, P>>,
    plan: &mut RequestPlan<'p>,
    window: &mut MeasuringWindow,
) -> Result<(), String> {
    let failed = |error| format!("epoll: {error}");
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
    let (receive, send_too) = (
        EpollFlags::EPOLLIN,
        EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
    );
    for (number, peer) in peers.iter_mut().enumerate() {
        peer.send_requests(plan, window.now())?;
        let wanted = if peer.is_blocked() { send_too } else { receive };
        epoll
            .add(&peer.stream, EpollEvent::new(wanted, number as u64))
            .map_err(failed)?;
    }
    let mut events = [EpollEvent::empty(); EVENTS];
    while window.now() < window.to {
        let count = epoll
            .wait(&mut events, EpollTimeout::NONE)
            .map_err(failed)?;
        for event in &events[..count] {
            let number = event.data();
            let peer = usize::try_from(number)
                .ok()
                .and_then(|number| peers.get_mut(number));
            let peer = peer.ok_or("epoll has reported an unknown connection")?;
            let was_blocked = peer.is_blocked();
            if was_blocked {
                peer.flush()?;
            }
            peer.exchange(plan, window, MsgFlags::MSG_DONTWAIT)?;
            if peer.is_blocked() != was_blocked {
                let wanted = if was_blocked { receive } else { send_too };
                epoll
                    .modify(&peer.stream, &mut EpollEvent::new(wanted, number))
                    .map_err(failed)?;
            }
        }
    }
    plan.end();
    peers
        .iter_mut()
        .try_for_each(|peer| drive_one(peer, plan, window, 0))
}

/// Compares the data of replies, and measures nothing.
struct Compare;

impl ReplyObserver for Compare {
    const COMPARES: bool = true;

    fn now(&self) -> u64 {
        0
    }

    fn done(&mut self, _: u64, _: u64) {}
}

/// Writes every slot and reads it back.
pub(crate) fn fill<P: Protocol>(
    target: &PeerTarget,
    shape: Shape<'_>,
    depth: u32,
) -> Result<(), String> {
    let mut peer = PeerConnection::<P>::connect(target, depth, shape.size)?;
    // The last slot first: Redis then allocates its value once, at its final size.
    for slots in [shape.slots - 1..shape.slots, 0..shape.slots - 1] {
        drive_one(
            &mut peer,
            &mut RequestPlan::once(shape, Mix::Write, slots),
            &mut Compare,
            u64::MAX,
        )?;
    }
    drive_one(
        &mut peer,
        &mut RequestPlan::once(shape, Mix::Read, 0..shape.slots),
        &mut Compare,
        u64::MAX,
    )
}

/// Writes another pattern to a few slots, then the right one, and reads each back.
pub(crate) fn check<P: Protocol>(
    target: &PeerTarget,
    shape: Shape<'_>,
    depth: u32,
) -> Result<(), String> {
    let other = BytePattern::new(2);
    let mut peer = PeerConnection::<P>::connect(target, depth, shape.size)?;
    let slots = shape.slots / 2..shape.slots.min(shape.slots / 2 + CHECKED);
    for pattern in [&other, shape.pattern] {
        for mix in [Mix::Write, Mix::Read] {
            let mut plan = RequestPlan::once(Shape { pattern, ..shape }, mix, slots.clone());
            drive_one(&mut peer, &mut plan, &mut Compare, u64::MAX)?;
        }
    }
    Ok(())
}

/// Opens connections, sends one request on each, and then nothing for `time`. Returns the server
/// before and after that time.
pub(crate) fn idle<P: Protocol>(
    target: &PeerTarget,
    shape: Shape<'_>,
    connections: usize,
    time: Duration,
    server: u32,
) -> Result<(ServerProcess, ServerProcess), String> {
    let connect = |_| PeerConnection::<P>::connect(target, 1, shape.size);
    let mut peers = (0..connections)
        .map(connect)
        .collect::<Result<Vec<_>, _>>()?;
    for peer in &mut peers {
        drive_one(
            peer,
            &mut RequestPlan::once(shape, Mix::Read, 0..1),
            &mut Compare,
            u64::MAX,
        )?;
    }
    // After a request, a server may poll for a moment for the next one.
    std::thread::sleep(IDLE_DELAY);
    let before = ServerProcess::look(server)?;
    std::thread::sleep(time);
    Ok((before, ServerProcess::look(server)?))
}
