//! The load itself: a thread or several, each with its connections.

use crate::lane::{Lane, Watch};
use crate::plan::{Mix, Plan, Shape};
use crate::protocol::{Protocol, TIMEOUT, Target};
use crate::server_process::ServerProcess;
use dsm_benches::pattern::Pattern;
use dsm_service::cli::histogram::Histogram;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::MsgFlags;
use std::os::fd::AsFd;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Events that one look takes.
const EVENTS: usize = 64;

/// How long connections are left alone before what they cost is counted.
const SETTLE: Duration = Duration::from_secs(1);

/// Slots that are checked before each measurement.
const CHECKED: u64 = 32;

/// What is to be measured.
pub(crate) struct Load<'p> {
    pub(crate) shape: Shape<'p>,
    pub(crate) mix: Mix,
    pub(crate) connections: usize,
    pub(crate) depth: u32,
    pub(crate) threads: usize,
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
}

/// What was measured.
pub(crate) struct Measured {
    pub(crate) latencies: Histogram,
    /// The server's at the begin and the end of the window, and the time between them.
    pub(crate) before: ServerProcess,
    pub(crate) after: ServerProcess,
    pub(crate) between: Duration,
}

/// Counts the replies that come between two instants.
struct Window {
    start: Instant,
    from: u64,
    to: u64,
    latencies: Histogram,
}

impl Watch for Window {
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
    target: &Target,
    load: &Load<'_>,
    server: u32,
) -> Result<Measured, String> {
    let connect = |_| Lane::<P>::connect(target, load.depth, load.shape.size);
    let mut lanes = (0..load.connections)
        .map(connect)
        .collect::<Result<Vec<_>, _>>()?;
    let start = Instant::now();
    let (from, to) = (load.warm_up, load.warm_up + load.window);
    let each = load.connections.div_ceil(load.threads);
    std::thread::scope(|scope| {
        let (sender, results) = channel();
        let mut threads = 0;
        while !lanes.is_empty() {
            let lanes = lanes.split_off(lanes.len().saturating_sub(each));
            let plan = Plan::random(load.shape, load.mix, threads);
            let window = Window {
                start,
                from: nanoseconds(from),
                to: nanoseconds(to),
                latencies: Histogram::new(),
            };
            let sender = sender.clone();
            // The receiver waits for all of them, or has ended the process.
            scope.spawn(move || drop(sender.send(drive(lanes, plan, window))));
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
                    "the server has not answered for {} s",
                    TIMEOUT.as_secs()
                )),
            }
        }
        Ok(Measured {
            latencies,
            before: before?,
            after: after?,
            between: last.saturating_sub(first),
        })
    })
}

/// Threads that wait for a server cannot be told to stop.
fn give_up(message: &str) -> ! {
    eprintln!("peers-load: {message}");
    std::process::exit(1)
}

fn drive<'p, P: Protocol>(
    lanes: Vec<Lane<'p, P>>,
    mut plan: Plan<'p>,
    mut window: Window,
) -> Result<Window, String> {
    match <[_; 1]>::try_from(lanes) {
        Ok([mut lane]) => {
            let to = window.to;
            alone(&mut lane, &mut plan, &mut window, to)?;
        }
        Err(lanes) => together(lanes, &mut plan, &mut window)?,
    }
    Ok(window)
}

/// One connection, which waits in its own calls. It asks until that instant, or until nothing is
/// left to be asked for, and always stays for the replies: some servers do not survive it when a
/// client leaves before.
fn alone<'p, P: Protocol>(
    lane: &mut Lane<'p, P>,
    plan: &mut Plan<'p>,
    watch: &mut impl Watch,
    to: u64,
) -> Result<(), String> {
    lane.ask(plan, watch.now())?;
    while lane.is_busy() {
        if watch.now() >= to {
            plan.end();
        }
        if lane.is_blocked() {
            // It must not wait for replies only: the server may wait until these are taken before
            // it takes more.
            let mut interest = [PollFd::new(
                lane.stream.as_fd(),
                PollFlags::POLLIN | PollFlags::POLLOUT,
            )];
            poll(&mut interest, PollTimeout::NONE).map_err(|error| format!("poll: {error}"))?;
            lane.flush()?;
            lane.turn(plan, watch, MsgFlags::MSG_DONTWAIT)?;
        } else {
            lane.turn(plan, watch, MsgFlags::empty())?;
        }
    }
    Ok(())
}

/// Several connections, through epoll.
fn together<'p, P: Protocol>(
    mut lanes: Vec<Lane<'p, P>>,
    plan: &mut Plan<'p>,
    window: &mut Window,
) -> Result<(), String> {
    let failed = |error| format!("epoll: {error}");
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
    let (receive, send_too) = (
        EpollFlags::EPOLLIN,
        EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
    );
    for (number, lane) in lanes.iter_mut().enumerate() {
        lane.ask(plan, window.now())?;
        let wanted = if lane.is_blocked() { send_too } else { receive };
        epoll
            .add(&lane.stream, EpollEvent::new(wanted, number as u64))
            .map_err(failed)?;
    }
    let mut events = [EpollEvent::empty(); EVENTS];
    while window.now() < window.to {
        let count = epoll
            .wait(&mut events, EpollTimeout::NONE)
            .map_err(failed)?;
        for event in &events[..count] {
            let number = event.data();
            let lane = usize::try_from(number)
                .ok()
                .and_then(|number| lanes.get_mut(number));
            let lane = lane.ok_or("an event of no connection")?;
            let was_blocked = lane.is_blocked();
            if was_blocked {
                lane.flush()?;
            }
            lane.turn(plan, window, MsgFlags::MSG_DONTWAIT)?;
            if lane.is_blocked() != was_blocked {
                let wanted = if was_blocked { receive } else { send_too };
                epoll
                    .modify(&lane.stream, &mut EpollEvent::new(wanted, number))
                    .map_err(failed)?;
            }
        }
    }
    plan.end();
    lanes
        .iter_mut()
        .try_for_each(|lane| alone(lane, plan, window, 0))
}

/// Compares what comes back, and does not look at the time.
struct Compare;

impl Watch for Compare {
    const COMPARES: bool = true;

    fn now(&self) -> u64 {
        0
    }

    fn done(&mut self, _: u64, _: u64) {}
}

/// Writes every slot and reads it back.
pub(crate) fn fill<P: Protocol>(
    target: &Target,
    shape: Shape<'_>,
    depth: u32,
) -> Result<(), String> {
    let mut lane = Lane::<P>::connect(target, depth, shape.size)?;
    // The last one first: who holds all in one object then makes it in one go.
    for slots in [shape.slots - 1..shape.slots, 0..shape.slots - 1] {
        alone(
            &mut lane,
            &mut Plan::once(shape, Mix::Write, slots),
            &mut Compare,
            u64::MAX,
        )?;
    }
    alone(
        &mut lane,
        &mut Plan::once(shape, Mix::Read, 0..shape.slots),
        &mut Compare,
        u64::MAX,
    )
}

/// Writes something else to a few slots, and then what belongs there, and reads it back both times.
pub(crate) fn check<P: Protocol>(
    target: &Target,
    shape: Shape<'_>,
    depth: u32,
) -> Result<(), String> {
    let other = Pattern::new(2);
    let mut lane = Lane::<P>::connect(target, depth, shape.size)?;
    let slots = shape.slots / 2..shape.slots.min(shape.slots / 2 + CHECKED);
    for pattern in [&other, shape.pattern] {
        for mix in [Mix::Write, Mix::Read] {
            let mut plan = Plan::once(Shape { pattern, ..shape }, mix, slots.clone());
            alone(&mut lane, &mut plan, &mut Compare, u64::MAX)?;
        }
    }
    Ok(())
}

/// Opens connections, uses each once, and leaves them alone for a while.
pub(crate) fn idle<P: Protocol>(
    target: &Target,
    shape: Shape<'_>,
    connections: usize,
    time: Duration,
    server: u32,
) -> Result<(ServerProcess, ServerProcess), String> {
    let connect = |_| Lane::<P>::connect(target, 1, shape.size);
    let mut lanes = (0..connections)
        .map(connect)
        .collect::<Result<Vec<_>, _>>()?;
    for lane in &mut lanes {
        alone(
            lane,
            &mut Plan::once(shape, Mix::Read, 0..1),
            &mut Compare,
            u64::MAX,
        )?;
    }
    // A server may look out for more for a moment.
    std::thread::sleep(SETTLE);
    let before = ServerProcess::look(server)?;
    std::thread::sleep(time);
    Ok((before, ServerProcess::look(server)?))
}
