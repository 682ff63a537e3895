//! Handles one master: carries out its requests in the order that docs/agent-protocol.md allows,
//! and refuses every other request. What a master holds is released when its connection ends.

use super::Agent;
use super::admission::ConnectionPermit;
use super::restore::RestoreCoverage;
use dsm_core::printable::{self, printable};
use dsm_core::segment::{FreezeError, SNAPSHOT_LOCK_TIMEOUT, Segment, SnapshotLock};
use dsm_snapshot::agent_protocol::MessageStream;
use dsm_snapshot::agent_protocol::is_hostname;
use dsm_snapshot::agent_protocol::{AgentRequest, AgentResponse, LockPurpose, RefusalReason};
use dsm_snapshot::phase::{self, SnapshotPhase};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// How long the agent waits for the next request, as a multiple of the time for one message: the
/// master may be busy with agents that do not answer.
const REQUEST_WAIT_FACTOR: u32 = 10;

/// The same multiple while the master may be transferring the memory of other servers. The bound
/// exists for a master that is stopped or stalled.
const TRANSFER_WAIT_FACTOR: u32 = 100;

/// How much of a request out of turn is shown, in bytes: its name, and the beginning of its fields.
const MAX_SHOWN_REQUEST: usize = 100;

/// How long a peer that has connected may take for `hello`, which needs no preparation.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// The most that the agent waits for the first request after `hello`, while the master holds
/// nothing: the master says hello to all agents, some of which may not answer, before it sends
/// another request.
const GREETED_TIMEOUT: Duration = Duration::from_secs(120);

/// The fractions of the time for one message that the agent waits for the snapshot lock, and for
/// the end of the pause that writers get after a freeze. It has to answer before the master's
/// request times out.
const LOCK_WAIT_DIVISOR: u32 = 4;
const PAUSE_WAIT_DIVISOR: u32 = 2;

/// Why a handler ends before its master has ended the connection.
pub(super) enum HandlerError {
    /// The connection failed, or was closed before the task was complete.
    Lost(io::Error),
    /// The agent refuses a request.
    Refused(RefusalReason, String),
}

impl From<io::Error> for HandlerError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Refused(RefusalReason::Protocol, error.to_string()),
            _ => Self::Lost(error),
        }
    }
}

impl HandlerError {
    // By value, as `map_err` gives it.
    #[allow(clippy::needless_pass_by_value)]
    pub(super) fn failed(error: impl ToString) -> Self {
        Self::Refused(RefusalReason::Failed, error.to_string())
    }

    pub(super) fn out_of_turn(request: &AgentRequest) -> Self {
        let request = format!("{request:?}");
        Self::Refused(
            RefusalReason::Protocol,
            format!("out of turn: {}", printable(&request, MAX_SHOWN_REQUEST)),
        )
    }
}

/// The connection with one master, and what handles it.
pub(super) struct MasterHandler<'a> {
    pub(super) agent: &'a Agent,
    pub(super) stream: MessageStream,
    pub(super) peer: SocketAddr,
    permit: &'a ConnectionPermit,
}

impl<'a> MasterHandler<'a> {
    pub(super) fn new(
        agent: &'a Agent,
        stream: MessageStream,
        peer: SocketAddr,
        permit: &'a ConnectionPermit,
    ) -> Self {
        Self {
            agent,
            stream,
            peer,
            permit,
        }
    }

    /// Handles requests until the connection ends.
    pub(super) fn run(mut self) {
        let Err(end) = self.serve() else { return };
        if self.agent.refused.allows() {
            self.log(&end);
        }
        if let HandlerError::Refused(reason, message) = end {
            // It fails when the master has closed the connection.
            let _ = self.stream.refuse(reason, &message);
        }
    }

    fn log(&self, end: &HandlerError) {
        let (server, peer) = (self.agent.index, self.peer);
        match end {
            HandlerError::Lost(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                log::warn!(
                    DSM_SERVER = server, DSM_CLIENT:% = peer;
                    "the connection with {peer} was lost before its task was complete: the task is \
                     abandoned"
                );
            }
            HandlerError::Lost(error) => {
                log::warn!(
                    DSM_SERVER = server, DSM_CLIENT:% = peer;
                    "the connection with {peer} was lost: {error}"
                );
            }
            HandlerError::Refused(_, message) => {
                let message = printable(message, printable::MAX_LOG_TEXT);
                log::warn!(DSM_SERVER = server, DSM_CLIENT:% = peer; "refused {peer}: {message}");
            }
        }
    }

    fn serve(&mut self) -> Result<(), HandlerError> {
        match self
            .stream
            .control(self.stream.timeout().min(HELLO_TIMEOUT))
        {
            Ok(AgentRequest::Hello { layout, index }) => self.answer_hello(&layout, index)?,
            Ok(request) => return Err(HandlerError::out_of_turn(&request)),
            // The peer only tested whether the port is open.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        loop {
            self.permit.set_idle(true);
            let request = self.next_request();
            self.permit.set_idle(false);
            let request = match request {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                request => request?,
            };
            match request {
                AgentRequest::Claim { purpose, id } => {
                    return self.serve_locked(purpose, id.as_str());
                }
                AgentRequest::Accept => self.accept()?,
                AgentRequest::Recover => self.recover()?,
                AgentRequest::Snapshots => self.list()?,
                AgentRequest::Fetch {
                    name,
                    address,
                    length,
                } => self.fetch(&name, address, length)?,
                other => return Err(HandlerError::out_of_turn(&other)),
            }
        }
    }

    /// Waits for the next request of a master that has said hello and holds nothing.
    fn next_request(&mut self) -> io::Result<AgentRequest> {
        self.stream
            .control((self.stream.timeout() * REQUEST_WAIT_FACTOR).min(GREETED_TIMEOUT))
    }

    /// How long a master may be busy with the transfers of other servers.
    pub(super) fn transfer_wait(&self) -> Duration {
        self.stream.timeout() * TRANSFER_WAIT_FACTOR
    }

    fn answer_hello(&self, layout: &str, index: u32) -> Result<(), HandlerError> {
        let differences = self.agent.config.layout.differences(layout);
        if !differences.is_empty() {
            let message = format!(
                "mcomp.cfg differs between the agent (ours) and the master (theirs): {}. Install \
                 the same file on every machine, and restart dsm-snapshot-agent.socket after a \
                 change",
                differences.join("; ")
            );
            return Err(HandlerError::Refused(RefusalReason::Layout, message));
        }
        if index != self.agent.index {
            let message = format!(
                "the master means server {index}, and this is the agent of server {}: see that the \
                 address of each agent in mcomp.cfg is right",
                self.agent.index
            );
            return Err(HandlerError::Refused(RefusalReason::Layout, message));
        }
        Ok(self.stream.send_response(&AgentResponse::Welcome {
            hostname: hostname(),
        })?)
    }

    /// Opens the segment and takes its snapshot lock.
    pub(super) fn acquire_lock(&self) -> Result<SnapshotLock, HandlerError> {
        let segment = Segment::attach(&self.agent.config.layout, self.agent.index)
            .map_err(|error| HandlerError::Refused(RefusalReason::NoSegment, error.to_string()))?;
        let time = SNAPSHOT_LOCK_TIMEOUT.min(self.stream.timeout() / LOCK_WAIT_DIVISOR);
        let lock = segment
            .snapshot_lock_within(time)
            .map_err(HandlerError::failed)?;
        lock.ok_or_else(|| {
            let message = format!(
                "a snapshot or a restore of server {} is under way: try again later. If it makes \
                 no progress, end the program that does it (dsm-snapshot create, dsmctl snapshot), \
                 or restart the agent",
                self.agent.index
            );
            HandlerError::Refused(RefusalReason::UnderWay, message)
        })
    }

    /// The address of the master, in the form that the segment stores.
    pub(super) fn master_address(&self) -> Ipv6Addr {
        as_ipv6(self.peer.ip())
    }

    /// Whether the master runs on this machine.
    pub(super) fn master_is_local(&self) -> bool {
        self.stream
            .socket()
            .own_address()
            .is_ok_and(|own| as_ipv6(own.ip()) == self.master_address())
    }

    /// Waits for the end of the pause that writers get after the last freeze. Refuses the request
    /// if that would take too long.
    fn wait_out_pause(&self, lock: &SnapshotLock) -> Result<(), HandlerError> {
        let pause = lock.pause();
        if pause > self.stream.timeout() / PAUSE_WAIT_DIVISOR {
            let message = format!(
                "the writers of server {} were kept out a moment ago, and get a pause of nine \
                 times as long before the next freeze: try again in {} s",
                self.agent.index,
                pause.as_secs() + 1
            );
            return Err(HandlerError::Refused(RefusalReason::UnderWay, message));
        }
        std::thread::sleep(pause);
        Ok(())
    }

    fn serve_locked(&mut self, purpose: LockPurpose, id: &str) -> Result<(), HandlerError> {
        let mut lock = self.acquire_lock()?;
        let segment = lock.segment();
        match segment.access_error() {
            None => self.wait_out_pause(&lock)?,
            // Refused here, because a refusal of the freeze would end the snapshot of the other
            // servers, too.
            Some(closed) if purpose == LockPurpose::Snapshot => {
                let message = format!(
                    "{closed}. Restore a snapshot (dsmctl snapshot restore), or begin with zeros \
                     (dsmctl memory accept-empty)"
                );
                return Err(HandlerError::Refused(RefusalReason::Shut, message));
            }
            Some(_) => {}
        }
        if purpose == LockPurpose::Snapshot {
            // After an error nothing is prepared: the freeze or the cut meets its cause and reports it.
            let _ = lock.prepare_cut(self.agent.config.snapshot.copy_area);
        }
        self.stream.send_response(&AgentResponse::Claimed {
            incarnation: segment.incarnation(),
        })?;
        // One deadline for all requests before the freeze, so that repeated requests do not extend
        // it.
        let deadline = Instant::now() + self.stream.timeout() * REQUEST_WAIT_FACTOR;
        loop {
            match self
                .stream
                .control(deadline.saturating_duration_since(Instant::now()))?
            {
                AgentRequest::Activity => self.stream.send_response(&AgentResponse::Activity {
                    number: segment.activity(),
                })?,
                AgentRequest::Freeze { lease_us } => {
                    // A master cannot keep writers out for longer than mcomp.cfg on this machine
                    // allows.
                    let lease = Duration::from_micros(lease_us)
                        .min(self.agent.config.snapshot.freeze_timeout);
                    return self.freeze(&mut lock, purpose, lease, id);
                }
                other => return Err(HandlerError::out_of_turn(&other)),
            }
        }
    }

    fn freeze(
        &mut self,
        lock: &mut SnapshotLock,
        purpose: LockPurpose,
        lease: Duration,
        id: &str,
    ) -> Result<(), HandlerError> {
        if purpose == LockPurpose::Snapshot && phase::gate_is_off() {
            return self.cut_without_gate(lock, lease, id);
        }
        // While this handler has the snapshot lock, no other opens the memory.
        if purpose == LockPurpose::Restore && lock.segment().access_error().is_some() {
            self.stream
                .send_response(&AgentResponse::Frozen { shut: true })?;
            return match self
                .stream
                .control(self.stream.timeout() * REQUEST_WAIT_FACTOR)?
            {
                AgentRequest::Shut => {
                    let coverage = if lock.segment().restorer() == Some(self.master_address()) {
                        RestoreCoverage::Any
                    } else {
                        RestoreCoverage::Whole
                    };
                    self.restore(lock, coverage, id)
                }
                other => Err(HandlerError::out_of_turn(&other)),
            };
        }
        let started = Instant::now();
        let frozen = lock.freeze(lease).map_err(|error| refusal(&error))?;
        phase::reached(SnapshotPhase::Frozen);
        self.stream
            .send_response(&AgentResponse::Frozen { shut: false })?;
        let left = lease.saturating_sub(started.elapsed());
        match self.stream.control(left) {
            Ok(AgentRequest::Cut { copy_area }) if purpose == LockPurpose::Snapshot => {
                let copy_area = copy_area.min(self.agent.config.snapshot.copy_area);
                let cut = frozen.cut(copy_area).map_err(|error| refusal(&error))?;
                self.send_cut(lock, cut, started.elapsed(), id)
            }
            Ok(AgentRequest::Shut) if purpose == LockPurpose::Restore => {
                frozen.close().map_err(|error| refusal(&error))?;
                self.restore(lock, RestoreCoverage::Any, id)
            }
            Ok(other) => Err(HandlerError::out_of_turn(&other)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(refusal(&FreezeError::LeaseExpired))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// [`MasterHandler::freeze`] without the freeze before the cut, so that the cuts of the servers
    /// are of different instants: for the test that has to detect that.
    fn cut_without_gate(
        &mut self,
        lock: &mut SnapshotLock,
        lease: Duration,
        id: &str,
    ) -> Result<(), HandlerError> {
        self.stream
            .send_response(&AgentResponse::Frozen { shut: false })?;
        match self.stream.control(lease)? {
            AgentRequest::Cut { copy_area } => {
                let started = Instant::now();
                let cut = lock
                    .freeze(lease)
                    .and_then(|frozen| frozen.cut(copy_area))
                    .map_err(|error| refusal(&error))?;
                self.send_cut(lock, cut, started.elapsed(), id)
            }
            other => Err(HandlerError::out_of_turn(&other)),
        }
    }
}

fn refusal(error: &FreezeError) -> HandlerError {
    let reason = match error {
        FreezeError::Access(_) => RefusalReason::Shut,
        FreezeError::LeaseExpired => RefusalReason::Late,
        FreezeError::Segment(_) => RefusalReason::Failed,
    };
    HandlerError::Refused(reason, error.to_string())
}

/// The address as IPv6, so that addresses can be compared.
fn as_ipv6(address: IpAddr) -> Ipv6Addr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// The hostname of this machine; empty when a snapshot's header cannot hold it.
fn hostname() -> String {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default();
    if is_hostname(&name) {
        name
    } else {
        String::new()
    }
}
