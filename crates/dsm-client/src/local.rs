//! The shared memory of a server on this host, as the path to its memory in place of TCP. A request
//! that finds it closed goes by TCP, where the server says why. A request that waits for others
//! waits here until its deadline, and has then changed nothing.

use super::call::{Call, CallKind};
use super::error::Error;
use super::pool::ClientState;
use dsm_core::protocol::{MemoryOperation, Request};
use dsm_core::segment::{AccessError, Awaited, Deadline, Segment, Worker};
use dsm_core::sys::clock;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The pause before another attempt to use the shared memory of a server, after it was found closed
/// or without a free worker.
const ATTACH_RETRY: Duration = Duration::from_secs(1);

/// Idle workers that a client keeps for each server. More threads may call at the same time, as
/// long as the segment has workers; other programs need those that this one does not use.
const MAX_IDLE: usize = 4;

/// How often a client checks, in ns, whether the segment still has its name and a server. The
/// segment cannot tell it when its server was killed and the segment was then removed by hand, or
/// never served again.
const CHECK_INTERVAL: u64 = 100_000_000;

/// How long a client uses a segment without a server, in ns. A server that was killed is back
/// sooner; one that is not back may have been replaced by one on another machine.
const MAX_ABSENCE: u64 = 30_000_000_000;

/// The pause after an attempt that found the pages held by a process that makes no progress. In the
/// pause this client holds nothing that others may need. It notices only after the pause that the
/// process continued.
const PAGE_LOCK_RETRY: Duration = Duration::from_millis(200);

/// The path that requests to a server take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DataPath {
    /// Through the server's shared memory on this host.
    Local,
    /// Over a connection to the server.
    Tcp,
}

impl DataPath {
    /// The name that `dsmctl ping` prints.
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
pub(super) struct LocalSegment(Mutex<LocalState>);

#[derive(Default)]
struct LocalState {
    attachment: Option<Attachment>,
    /// No attempt is made before this instant.
    pause: Option<Instant>,
    /// Attachments so far.
    count: u64,
}

struct Attachment {
    segment: Segment,
    incarnation: u64,
    /// Workers that no call uses. They are in boxes, so that to take one and to put it back moves a
    /// pointer only.
    #[allow(clippy::vec_box)]
    idle: Vec<Box<Worker>>,
    /// When it was last checked, and when a server was last seen, by the coarse clock.
    checked_at: u64,
    served_at: u64,
}

/// A worker that one call uses; it goes back to the idle ones when this is dropped.
struct WorkerLease<'l> {
    local: &'l LocalSegment,
    /// Always there until the drop.
    worker: Option<Box<Worker>>,
    /// The attachment that it belongs to.
    number: u64,
}

/// Carries out the requests of `call` in shared memory, one after the other, where that is open,
/// within `timeout` ns from now. The requests that are left have changed nothing and are to go by
/// TCP; until the deadline that is returned, if part of the time has passed.
pub(super) fn execute(
    shared: &ClientState,
    server: usize,
    call: &mut Call<'_>,
    mut timeout: u64,
) -> Option<Deadline> {
    let mut begun = None;
    if !matches!(call.kind(), CallKind::Status(_) | CallKind::Ping(..)) {
        while let Some(mut lease) = shared.lease(server, timeout) {
            let shut = steps(lease.worker.as_mut()?, call, shared.layout.share_size())?;
            match refused(shared, server, call, lease, shut) {
                Next::Again(deadline) => (begun, timeout) = (Some(deadline), deadline.timeout()),
                Next::OverTcp(deadline) => return deadline,
                Next::Failed => return None,
            }
        }
    }
    begun
}

/// Carries out what is left of `call`. Returns why a request was refused; nothing if all were
/// carried out, or if one is not for shared memory.
#[inline]
fn steps(worker: &mut Worker, call: &mut Call<'_>, k: u64) -> Option<AccessError> {
    let mut next = call.peek();
    while let Some((position, length)) = next {
        match step(worker, call, position, length, k)? {
            Ok(value) => call.completed_locally(value),
            Err(shut) => return Some(shut),
        }
        next = call.peek();
        if next.is_some() && worker.deadline().has_passed() {
            return Some(AccessError::DeadlinePassed(Awaited::Parts));
        }
    }
    None
}

/// What follows a refusal for the rest of a call.
enum Next {
    /// Another attempt, until this deadline.
    Again(Deadline),
    /// It goes by TCP, until this deadline, because the memory is closed.
    OverTcp(Option<Deadline>),
    /// It fails, because its deadline has passed.
    Failed,
}

/// Decides on the rest of `call`, and pauses before another attempt.
#[cold]
fn refused(
    shared: &ClientState,
    server: usize,
    call: &mut Call<'_>,
    lease: WorkerLease<'_>,
    shut: AccessError,
) -> Next {
    let Some(deadline) = lease.worker.as_ref().map(|worker| worker.deadline()) else {
        return Next::OverTcp(None);
    };
    match shut {
        AccessError::PageLockTimeout { .. } if !deadline.has_passed() => {
            // Other threads may use the worker during the pause.
            drop(lease);
            std::thread::sleep(PAGE_LOCK_RETRY.min(deadline.left()));
            Next::Again(deadline)
        }
        AccessError::PageLockTimeout { pid } => {
            call.fail(late(shared, server, Awaited::Pages { pid }));
            Next::Failed
        }
        AccessError::DeadlinePassed(awaited) => {
            call.fail(late(shared, server, awaited));
            Next::Failed
        }
        // A local client's workers wait for freezes, so `Frozen` is never returned.
        AccessError::Frozen
        | AccessError::Waiting
        | AccessError::Restoring
        | AccessError::LocalAccessDenied
        | AccessError::Replaced => {
            lease.end();
            Next::OverTcp(Some(deadline))
        }
    }
}

/// The error of a request whose deadline passed while it waited. It has changed nothing.
fn late(shared: &ClientState, server: usize, awaited: Awaited) -> Error {
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
        .unavailable_until(AccessError::DeadlinePassed(awaited).to_string(), &remedy)
}

/// A timeout, which is at most a year, in ns.
#[inline]
pub(super) fn nanoseconds(timeout: Duration) -> u64 {
    #[allow(clippy::cast_possible_truncation)]
    let nanoseconds = timeout.as_nanos() as u64;
    nanoseconds
}

/// Carries out the next request of `call`; `None` if it is not for shared memory.
#[inline]
fn step(
    worker: &mut Worker,
    call: &mut Call<'_>,
    position: u64,
    length: u64,
    k: u64,
) -> Option<Result<u64, AccessError>> {
    Some(match call.request(position, length, k).ok()? {
        Request::Memory(MemoryOperation::Read(extent)) => worker
            .read(extent, call.target(position, extent.length()))
            .map(|()| 0),
        Request::Memory(MemoryOperation::Change(change)) => worker.change(&change, None),
        Request::Hello(_) | Request::Status | Request::Ping(_) => return None,
    })
}

impl ClientState {
    /// Whether requests to the server go through its shared memory now.
    pub(super) fn is_local(&self, server: usize) -> bool {
        self.lease(server, 0).is_some()
    }

    #[inline]
    fn lease(&self, server: usize, timeout: u64) -> Option<WorkerLease<'_>> {
        let local = self.local(server)?;
        let mut state = local.state();
        if state.attachment.is_none() {
            self.attach(server, &mut state)?;
        }
        let number = state.count;
        let LocalState {
            attachment: Some(attachment),
            pause,
            ..
        } = &mut *state
        else {
            return None;
        };
        let now = clock::coarse();
        if now.wrapping_sub(attachment.checked_at) > CHECK_INTERVAL {
            attachment.checked_at = now;
            if !attachment.is_in_use(now) {
                state.attachment = None;
                return None;
            }
        }
        let mut worker = match attachment.idle.pop() {
            Some(worker) => worker,
            None => attachment.acquire(pause)?,
        };
        worker.set_deadline(Deadline::after(now, timeout));
        Some(WorkerLease {
            local,
            worker: Some(worker),
            number,
        })
    }

    #[cold]
    fn attach(&self, server: usize, state: &mut LocalState) -> Option<()> {
        if !is_over(&mut state.pause) || self.has_abandoned(server) {
            return None;
        }
        let attached = u32::try_from(server)
            .ok()
            .and_then(|index| Segment::attach_as_client(&self.layout, index).ok());
        // If this client knows another incarnation, the request goes by TCP, where the server says
        // that the memory was lost.
        let Some((segment, incarnation)) =
            attached.filter(|(_, found)| self.check_incarnation(server, *found).is_ok())
        else {
            state.pause = Some(Instant::now() + ATTACH_RETRY);
            return None;
        };
        state.count += 1;
        let now = clock::coarse();
        let idle = Vec::with_capacity(MAX_IDLE);
        state.attachment = Some(Attachment {
            segment,
            incarnation,
            idle,
            checked_at: now,
            served_at: now,
        });
        Some(())
    }
}

/// Whether the pause is over; it is then cleared.
fn is_over(pause: &mut Option<Instant>) -> bool {
    if pause.is_none_or(|until| Instant::now() >= until) {
        *pause = None;
    }
    pause.is_none()
}

impl Attachment {
    /// Whether a server serves the segment, or did so a short time ago.
    #[cold]
    fn is_in_use(&mut self, now: u64) -> bool {
        if self.segment.is_served() {
            self.served_at = now;
        }
        !self.segment.is_removed() && now.wrapping_sub(self.served_at) < MAX_ABSENCE
    }

    /// Acquires another worker, if the segment has a free one.
    #[cold]
    fn acquire(&self, pause: &mut Option<Instant>) -> Option<Box<Worker>> {
        if !is_over(pause) {
            return None;
        }
        let Ok(mut worker) = self.segment.worker() else {
            *pause = Some(Instant::now() + ATTACH_RETRY);
            return None;
        };
        worker.set_incarnation(self.incarnation);
        Some(Box::new(worker))
    }
}

impl LocalSegment {
    fn state(&self) -> MutexGuard<'_, LocalState> {
        // A panic of another thread leaves no half state: an attachment is there or not, and its
        // workers are whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the attachment; the next request attaches again, if it can.
    pub(super) fn forget(&self) {
        detach(self.state(), None);
    }
}

/// Ends the attachment until `pause`. The memory is unmapped without the mutex, which every local
/// call takes.
fn detach(mut state: MutexGuard<'_, LocalState>, pause: Option<Instant>) {
    let attachment = state.attachment.take();
    state.pause = pause;
    drop(state);
    drop(attachment);
}

impl WorkerLease<'_> {
    /// Ends the attachment, whose memory was found closed.
    #[cold]
    fn end(self) {
        let state = self.local.state();
        if state.count == self.number {
            detach(state, Some(Instant::now() + ATTACH_RETRY));
        }
    }
}

impl Drop for WorkerLease<'_> {
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

impl fmt::Debug for LocalSegment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LocalSegment")
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dsm_core::layout::Layout;
    use dsm_core::segment::Start;
    use std::ops::ControlFlow;

    /// A memory whose shared-memory objects are removed at the end.
    struct TestMemory(Layout);

    impl TestMemory {
        fn serve(&self) -> Segment {
            Segment::serve(&self.0, 0, Start::Serve, &mut |_, _| {
                ControlFlow::Continue(())
            })
            .unwrap()
            .segment
        }
    }

    impl Drop for TestMemory {
        fn drop(&mut self) {
            let of_memory = |name: &str| {
                name.trim_start_matches("sem.")
                    .starts_with(&format!("{}.", self.0.name()))
            };
            for entry in std::fs::read_dir("/dev/shm").unwrap().flatten() {
                if of_memory(&entry.file_name().to_string_lossy()) {
                    std::fs::remove_file(entry.path()).unwrap();
                }
            }
        }
    }

    #[test]
    fn a_segment_without_a_server_is_used_for_30_seconds() {
        let name = format!("dsmtest-{}-absence", std::process::id());
        let memory = TestMemory(Layout::new(&name, 1 << 20, vec!["127.0.0.1:1".into()]).unwrap());
        let server = memory.serve();
        server.enable_local_access(memory.0.segment_fingerprint(0));
        let shared = ClientState::new(memory.0.clone());
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
            is_in_use(MAX_ABSENCE) && is_in_use(2 * MAX_ABSENCE),
            "it is served"
        );
        drop(server);
        shared.local(0).unwrap().forget();
        assert!(!shared.is_local(0), "no client attaches without a server");
        let server = memory.serve();
        shared.local(0).unwrap().forget();
        assert!(shared.is_local(0));
        drop(server);
        assert!(is_in_use(MAX_ABSENCE / 2));
        assert!(!is_in_use(MAX_ABSENCE + 1));
        let server = memory.serve();
        assert!(is_in_use(MAX_ABSENCE + 1), "it is back");
        drop(server);
    }
}
