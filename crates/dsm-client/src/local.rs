//! The way to a server's memory that is not the network: its shared memory, when the server is on
//! this host and lets this process in. What finds it closed goes by TCP, without a word; there the
//! server says why, if there is a why. What has to wait for others waits here until its deadline,
//! and is then known to have changed nothing.

use super::error::Error;
use super::job::{Job, Work};
use super::pool::Shared;
use dsm_core::protocol::Operation;
use dsm_core::segment::{Awaited, Deadline, Segment, Shut, Worker};
use dsm_core::sys::clock;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long nothing is tried after the shared memory of a server was found closed, or without a
/// free worker.
const PAUSE: Duration = Duration::from_secs(1);

/// Workers that a client keeps for each server while nobody uses them. More threads may call at the
/// same time, as long as the segment has workers; but those of others are not to be hoarded.
const MAX_IDLE: usize = 4;

/// How often it is looked, in ns, whether the segment still has its name and a server: what nobody
/// can say in a segment whose server was killed, and which was then removed by hand, or never
/// served again.
const LOOK_INTERVAL: u64 = 100_000_000;

/// How long a segment is used without a server, in ns. One that was killed is back sooner; and one
/// that is not may have been replaced by one on another machine.
const LONGEST_ABSENCE: u64 = 30_000_000_000;

/// The pause after an attempt that found the pages held by a process that makes no progress. In it
/// nothing is held, which others may want; and a process that was continued is not noticed sooner.
const HELD_PAUSE: Duration = Duration::from_millis(200);

/// The way that requests to a server take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DataPath {
    /// Through the server's shared memory on this host.
    Local,
    /// Over a connection to the server.
    Tcp,
}

impl DataPath {
    /// As `dsmctl ping` calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Tcp => "tcp",
        }
    }
}

/// What a client has of one server's shared memory.
#[derive(Default)]
pub(super) struct Local(Mutex<State>);

#[derive(Default)]
struct State {
    attachment: Option<Attachment>,
    /// Not to be tried before this instant.
    pause: Option<Instant>,
    /// Attachments so far.
    count: u64,
}

struct Attachment {
    segment: Segment,
    incarnation: u64,
    /// Workers that no call uses now. In boxes, so that to take one and to put it back moves a
    /// pointer.
    #[allow(clippy::vec_box)]
    idle: Vec<Box<Worker>>,
    /// When it was last looked after, and when a server was last seen, by the coarse clock.
    looked: u64,
    served: u64,
}

/// A worker, for one call.
struct Visit<'l> {
    local: &'l Local,
    /// Always there until the drop.
    worker: Option<Box<Worker>>,
    /// Which attachment it is of.
    number: u64,
}

/// Carries out the requests of `job` in shared memory, one after the other, if there is that way,
/// within `timeout` ns from now. Those that are left have not happened and are to go by TCP, until
/// the deadline that is returned if part of the time is over.
pub(super) fn execute(
    shared: &Shared,
    server: usize,
    job: &mut Job<'_>,
    mut timeout: u64,
) -> Option<Deadline> {
    let mut begun = None;
    if !matches!(job.work(), Work::Status(_) | Work::Ping(..)) {
        while let Some(mut visit) = shared.visit(server, timeout) {
            let shut = steps(visit.worker.as_mut()?, job, shared.layout.k())?;
            match refused(shared, server, job, visit, shut) {
                Next::Again(deadline) => (begun, timeout) = (Some(deadline), deadline.timeout()),
                Next::OverTcp(deadline) => return deadline,
                Next::Failed => return None,
            }
        }
    }
    begun
}

/// Carries out what is left of `job`. Returns why a request was refused; nothing also when one is
/// none for here.
#[inline]
fn steps(worker: &mut Worker, job: &mut Job<'_>, k: u64) -> Option<Shut> {
    let mut next = job.peek();
    while let Some((position, length)) = next {
        match step(worker, job, position, length, k)? {
            Ok(value) => job.done_at_once(value),
            Err(shut) => return Some(shut),
        }
        next = job.peek();
        if next.is_some() && worker.deadline().has_passed() {
            return Some(Shut::Late(Awaited::Parts));
        }
    }
    None
}

/// What becomes of the rest of a job after a refusal.
enum Next {
    /// It is tried again, until this deadline.
    Again(Deadline),
    /// It goes over TCP, until this deadline: the memory is closed.
    OverTcp(Option<Deadline>),
    /// Nothing: its deadline has passed.
    Failed,
}

/// Decides on the rest of `job`, and pauses before another attempt.
#[cold]
fn refused(
    shared: &Shared,
    server: usize,
    job: &mut Job<'_>,
    visit: Visit<'_>,
    shut: Shut,
) -> Next {
    let Some(deadline) = visit.worker.as_ref().map(|worker| worker.deadline()) else {
        return Next::OverTcp(None);
    };
    match shut {
        Shut::Held { .. } if !deadline.has_passed() => {
            // The worker may be of use to others in the pause.
            drop(visit);
            std::thread::sleep(HELD_PAUSE.min(deadline.left()));
            Next::Again(deadline)
        }
        Shut::Held { pid } => {
            job.fail(late(shared, server, Awaited::Pages { pid }));
            Next::Failed
        }
        Shut::Late(awaited) => {
            job.fail(late(shared, server, awaited));
            Next::Failed
        }
        Shut::Waiting | Shut::Restoring | Shut::ServerOnly | Shut::Replaced => {
            visit.end();
            Next::OverTcp(Some(deadline))
        }
    }
}

/// The error of a request whose deadline passed while it waited. It has changed nothing.
fn late(shared: &Shared, server: usize, awaited: Awaited) -> Error {
    let remedy = match awaited {
        Awaited::Pages { pid: 0 } => {
            "If a process that uses the memory was stopped (state T of ps(1)), continue it (kill -CONT) or end it"
                .to_owned()
        }
        Awaited::Pages { pid } => {
            format!("If it was stopped, continue it (kill -CONT {pid}) or end it")
        }
        Awaited::Freeze => {
            "Try again, or allow more than freeze_timeout of [snapshot] in mcomp.cfg".to_owned()
        }
        Awaited::CopyArea => {
            "Try again, or allow more time, or a larger copy_area in [snapshot] of mcomp.cfg".to_owned()
        }
        Awaited::Parts => "Allow more time, or ask for less at once".to_owned(),
    };
    shared
        .name(server)
        .unavailable_until(Shut::Late(awaited).to_string(), &remedy)
}

/// A timeout, which is at most a year, in ns.
#[inline]
pub(super) fn nanoseconds(timeout: Duration) -> u64 {
    #[allow(clippy::cast_possible_truncation)]
    let nanoseconds = timeout.as_nanos() as u64;
    nanoseconds
}

/// Carries out the next request of `job`; `None` when it is none for here.
#[inline]
fn step(
    worker: &mut Worker,
    job: &mut Job<'_>,
    position: u64,
    length: u64,
    k: u64,
) -> Option<Result<u64, Shut>> {
    Some(match job.operation(position, length, k).ok()? {
        Operation::Read(extent) => worker
            .read(extent, job.sink(position, extent.length()))
            .map(|()| 0),
        Operation::Hello(_) | Operation::Status | Operation::Ping(_) => return None,
        change => worker.change(&change, None),
    })
}

impl Shared {
    /// Whether requests to the server go through its shared memory now.
    pub(super) fn is_local(&self, server: usize) -> bool {
        self.visit(server, 0).is_some()
    }

    #[inline]
    fn visit(&self, server: usize, timeout: u64) -> Option<Visit<'_>> {
        let local = self.local(server)?;
        let mut state = local.state();
        if state.attachment.is_none() {
            self.attach(server, &mut state)?;
        }
        let number = state.count;
        let State {
            attachment: Some(attachment),
            pause,
            ..
        } = &mut *state
        else {
            return None;
        };
        let now = clock::coarse();
        if now.wrapping_sub(attachment.looked) > LOOK_INTERVAL {
            attachment.looked = now;
            if !attachment.is_in_use(now) {
                state.attachment = None;
                return None;
            }
        }
        let mut worker = match attachment.idle.pop() {
            Some(worker) => worker,
            None => attachment.hire(pause)?,
        };
        worker.wait_until(Deadline::after(now, timeout));
        Some(Visit {
            local,
            worker: Some(worker),
            number,
        })
    }

    #[cold]
    fn attach(&self, server: usize, state: &mut State) -> Option<()> {
        if !is_over(&mut state.pause) || !self.abandoned(server).is_empty() {
            return None;
        }
        let attached = u32::try_from(server)
            .ok()
            .and_then(|index| Segment::attach_as_client(&self.layout, index).ok());
        // A memory that this client does not know is the business of TCP, which says that the other
        // was lost.
        let Some((segment, incarnation)) =
            attached.filter(|(_, found)| self.meet(server, *found).is_ok())
        else {
            state.pause = Some(Instant::now() + PAUSE);
            return None;
        };
        state.count += 1;
        let now = clock::coarse();
        let idle = Vec::with_capacity(MAX_IDLE);
        state.attachment = Some(Attachment {
            segment,
            incarnation,
            idle,
            looked: now,
            served: now,
        });
        Some(())
    }
}

/// Whether the time is over; then it is forgotten.
fn is_over(pause: &mut Option<Instant>) -> bool {
    if pause.is_none_or(|until| Instant::now() >= until) {
        *pause = None;
    }
    pause.is_none()
}

impl Attachment {
    /// Whether the segment is what its server serves, or did not long ago.
    #[cold]
    fn is_in_use(&mut self, now: u64) -> bool {
        if self.segment.is_served() {
            self.served = now;
        }
        !self.segment.is_removed() && now.wrapping_sub(self.served) < LONGEST_ABSENCE
    }

    /// One more worker, if there is one.
    #[cold]
    fn hire(&self, pause: &mut Option<Instant>) -> Option<Box<Worker>> {
        if !is_over(pause) {
            return None;
        }
        let Ok(mut worker) = self.segment.worker() else {
            *pause = Some(Instant::now() + PAUSE);
            return None;
        };
        worker.expect(self.incarnation);
        Some(Box::new(worker))
    }
}

impl Local {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whatever its last user died of: an attachment is there or not, and its workers are whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the attachment; the next request makes another one, if it can.
    pub(super) fn forget(&self) {
        let mut state = self.state();
        (state.attachment, state.pause) = (None, None);
    }
}

impl Visit<'_> {
    /// Ends the attachment, which was found closed.
    #[cold]
    fn end(self) {
        let mut state = self.local.state();
        if state.count == self.number {
            (state.attachment, state.pause) = (None, Some(Instant::now() + PAUSE));
        }
    }
}

impl Drop for Visit<'_> {
    #[inline]
    fn drop(&mut self) {
        let mut state = self.local.state();
        if state.count == self.number
            && let Some(attachment) = &mut state.attachment
            && attachment.idle.len() < MAX_IDLE
            && let Some(worker) = self.worker.take()
        {
            attachment.idle.push(worker);
        }
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Local").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dsm_core::layout::Layout;
    use dsm_core::segment::Start;
    use std::ops::ControlFlow;

    /// Its shared memory, removed at the end.
    struct System(Layout);

    impl System {
        fn serve(&self) -> Segment {
            Segment::serve(&self.0, 0, Start::Serve, &mut |_, _| {
                ControlFlow::Continue(())
            })
            .unwrap()
            .segment
        }
    }

    impl Drop for System {
        fn drop(&mut self) {
            let of_system = |name: &str| {
                name.trim_start_matches("sem.")
                    .starts_with(&format!("{}.", self.0.name()))
            };
            for entry in std::fs::read_dir("/dev/shm").unwrap().flatten() {
                if of_system(&entry.file_name().to_string_lossy()) {
                    std::fs::remove_file(entry.path()).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_segment_that_is_served_no_longer_is_given_up_after_a_while() {
        let name = format!("dsmtest-{}-absence", std::process::id());
        let system = System(Layout::new(&name, 1 << 20, vec!["127.0.0.1:1".into()]).unwrap());
        let server = system.serve();
        server.admit_local(system.0.fingerprint());
        let shared = Shared::new(system.0.clone());
        assert!(shared.is_local(0));
        let is_in_use = |later| {
            let mut state = shared.local(0).unwrap().state();
            state
                .attachment
                .as_mut()
                .unwrap()
                .is_in_use(clock::coarse() + later)
        };
        assert!(
            is_in_use(LONGEST_ABSENCE) && is_in_use(2 * LONGEST_ABSENCE),
            "it is served"
        );
        drop(server);
        shared.local(0).unwrap().forget();
        assert!(!shared.is_local(0), "nobody begins without a server");
        let server = system.serve();
        shared.local(0).unwrap().forget();
        assert!(shared.is_local(0));
        drop(server);
        assert!(is_in_use(LONGEST_ABSENCE / 2));
        assert!(!is_in_use(LONGEST_ABSENCE + 1));
        let server = system.serve();
        assert!(is_in_use(LONGEST_ABSENCE + 1), "it is back");
        drop(server);
    }
}
