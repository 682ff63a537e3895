//! What is said with one master: the greeting, and what it asks for.

use super::Agent;
use super::restore::Part;
use super::seats::Seat;
use dsm_core::printable::{self, printable};
use dsm_core::segment::{CLAIM_TIME, Claim, FreezeError, Segment};
use dsm_snapshot::agent_protocol::Connection;
use dsm_snapshot::agent_protocol::is_hostname;
use dsm_snapshot::agent_protocol::{Answer, Ask, Purpose, Reason};
use dsm_snapshot::phase::{self, Phase};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// How many times the time for one message a master may be busy with others, whose agents do not
/// answer, before it asks this one for the next thing.
const PATIENCE: u32 = 10;

/// The same while it sends or receives the memory of other servers, which takes as long as there is
/// memory. The bound is for a master that stands still.
const LONG_PATIENCE: u32 = 100;

/// How much of an ask that came out of turn is shown, in bytes: which it is, and the begin of what
/// it says.
const MAX_SHOWN_ASK: usize = 100;
/// How long a peer has that has connected, to say who it is: it knows that already.
const FIRST_REQUEST: Duration = Duration::from_secs(5);

/// How long a master that was greeted may be busy with others at most, while it holds nothing here:
/// it greets all agents, some of which do not answer, before it asks the first one for anything.
const IDLE: Duration = Duration::from_secs(120);

/// A master that has to wait for a claim, because another one has it, or the writers have a rest
/// after a freeze, waits for these parts of the time for one message at most: it must have the
/// answer before it takes the agent for silent.
const CLAIM_SHARE: u32 = 4;
const REST_SHARE: u32 = 2;

/// Why a session ends before its master ends it.
pub(super) enum End {
    /// The connection failed, or was closed in the middle.
    Lost(io::Error),
    /// The master asked for something that is refused.
    Refused(Reason, String),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Self::Refused(Reason::Protocol, error.to_string()),
            _ => Self::Lost(error),
        }
    }
}

impl End {
    // By value, as `map_err` gives it.
    #[allow(clippy::needless_pass_by_value)]
    pub(super) fn failed(error: impl ToString) -> Self {
        Self::Refused(Reason::Failed, error.to_string())
    }

    pub(super) fn out_of_turn(ask: &Ask) -> Self {
        let ask = format!("{ask:?}");
        Self::Refused(
            Reason::Protocol,
            format!("out of turn: {}", printable(&ask, MAX_SHOWN_ASK)),
        )
    }
}

/// One master.
pub(super) struct Session<'a> {
    pub(super) agent: &'a Agent,
    pub(super) connection: Connection,
    pub(super) peer: SocketAddr,
    seat: &'a Seat,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        agent: &'a Agent,
        connection: Connection,
        peer: SocketAddr,
        seat: &'a Seat,
    ) -> Self {
        Self {
            agent,
            connection,
            peer,
            seat,
        }
    }

    /// Talks until the master is done or gone.
    pub(super) fn run(mut self) {
        let Err(end) = self.converse() else { return };
        if self.agent.refused.opens() {
            self.log(&end);
        }
        if let End::Refused(reason, message) = end {
            // One that is gone need not be told.
            let _ = self.connection.refuse(reason, &message);
        }
    }

    fn log(&self, end: &End) {
        let (server, peer) = (self.agent.index, self.peer);
        match end {
            End::Lost(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                log::warn!(
                    DSM_SERVER = server, DSM_CLIENT:% = peer;
                    "the connection with {peer} was lost before the end: what it wanted is abandoned"
                );
            }
            End::Lost(error) => {
                log::warn!(DSM_SERVER = server, DSM_CLIENT:% = peer; "the connection with {peer} was lost: {error}");
            }
            End::Refused(_, message) => {
                let message = printable(message, printable::LOG);
                log::warn!(DSM_SERVER = server, DSM_CLIENT:% = peer; "refused {peer}: {message}");
            }
        }
    }

    fn converse(&mut self) -> Result<(), End> {
        match self
            .connection
            .control(self.connection.timeout().min(FIRST_REQUEST))
        {
            Ok(Ask::Hello { layout, index }) => self.greet(&layout, index)?,
            Ok(ask) => return Err(End::out_of_turn(&ask)),
            // Somebody has looked whether the port is open.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        loop {
            self.seat.is_idle(true);
            let ask = self.next_ask();
            self.seat.is_idle(false);
            let ask = match ask {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                ask => ask?,
            };
            match ask {
                Ask::Claim { purpose, id } => return self.claimed(purpose, id.as_str()),
                Ask::Accept => self.accept()?,
                Ask::Recover => self.recover()?,
                Ask::Snapshots => self.list()?,
                Ask::Fetch {
                    name,
                    address,
                    length,
                } => self.fetch(&name, address, length)?,
                other => return Err(End::out_of_turn(&other)),
            }
        }
    }

    /// Waits for the next ask of a master that was greeted, with nothing held that others would
    /// miss.
    fn next_ask(&mut self) -> io::Result<Ask> {
        self.connection
            .control((self.connection.timeout() * PATIENCE).min(IDLE))
    }

    /// How long a master may be busy with other servers.
    pub(super) fn long_patience(&self) -> Duration {
        self.connection.timeout() * LONG_PATIENCE
    }

    fn greet(&self, layout: &str, index: u32) -> Result<(), End> {
        let differences = self.agent.config.layout.differences(layout);
        if !differences.is_empty() {
            let message = format!(
                "mcomp.cfg differs between the agent (ours) and the other side (theirs): {}. Install the same file on every \
                 machine, and restart dsm-snapshot-agent.socket after a change",
                differences.join("; ")
            );
            return Err(End::Refused(Reason::Layout, message));
        }
        if index != self.agent.index {
            let message = format!(
                "server {index} was meant, but this is the agent of server {}",
                self.agent.index
            );
            return Err(End::Refused(Reason::Layout, message));
        }
        Ok(self.connection.answer(&Answer::Welcome {
            hostname: hostname(),
        })?)
    }

    /// Opens the segment and claims it.
    pub(super) fn claim(&self) -> Result<Claim, End> {
        let segment = Segment::attach(&self.agent.config.layout, self.agent.index)
            .map_err(|error| End::Refused(Reason::NoSegment, error.to_string()))?;
        let time = CLAIM_TIME.min(self.connection.timeout() / CLAIM_SHARE);
        let claim = segment.claim_within(time).map_err(End::failed)?;
        claim.ok_or_else(|| {
            let message = format!(
                "a snapshot or a restore of server {} is under way: try again later. If it stands still, end the \
                 program that does it (dsm-snapshot create, dsmctl snapshot), or restart the agent",
                self.agent.index
            );
            End::Refused(Reason::UnderWay, message)
        })
    }

    /// Who the master is, as a segment notes it.
    pub(super) fn master(&self) -> Ipv6Addr {
        as_ipv6(self.peer.ip())
    }

    /// Whether the master is on this machine.
    pub(super) fn is_here(&self) -> bool {
        self.connection
            .socket()
            .local_addr()
            .is_ok_and(|own| as_ipv6(own.ip()) == self.master())
    }

    /// Leaves the writers their rest after the last freeze.
    fn rest(&self, claim: &Claim) -> Result<(), End> {
        let pause = claim.pause();
        if pause > self.connection.timeout() / REST_SHARE {
            let message = format!(
                "the writers of server {} were kept out a moment ago, and are left alone for nine times as long: try again \
                 in {} s",
                self.agent.index,
                pause.as_secs() + 1
            );
            return Err(End::Refused(Reason::UnderWay, message));
        }
        std::thread::sleep(pause);
        Ok(())
    }

    fn claimed(&mut self, purpose: Purpose, id: &str) -> Result<(), End> {
        let mut claim = self.claim()?;
        let segment = claim.segment();
        match segment.shut() {
            None => self.rest(&claim)?,
            // Before the freeze, where it would cost the snapshot of the other servers too.
            Some(shut) if purpose == Purpose::Snapshot => {
                let message = format!(
                    "{shut}. Restore a snapshot (dsmctl snapshot restore), or begin with zeros (dsmctl memory accept-empty)"
                );
                return Err(End::Refused(Reason::Shut, message));
            }
            Some(_) => {}
        }
        if purpose == Purpose::Snapshot {
            // What stands in the way of this stands in the way of the freeze, which reports it.
            let _ = claim.prepare_cut(self.agent.config.snapshot.copy_area);
        }
        self.connection.answer(&Answer::Claimed {
            incarnation: segment.incarnation(),
        })?;
        // For all that comes before the freeze: what is asked again and again does not prolong it.
        let deadline = Instant::now() + self.connection.timeout() * PATIENCE;
        loop {
            match self
                .connection
                .control(deadline.saturating_duration_since(Instant::now()))?
            {
                Ask::Activity => self.connection.answer(&Answer::Activity {
                    number: segment.activity(),
                })?,
                Ask::Freeze { lease_us } => {
                    // Whatever a master asks for: writers stand still for no longer than this
                    // machine's mcomp.cfg allows.
                    let lease = Duration::from_micros(lease_us)
                        .min(self.agent.config.snapshot.freeze_timeout);
                    return self.freeze(&mut claim, purpose, lease, id);
                }
                other => return Err(End::out_of_turn(&other)),
            }
        }
    }

    fn freeze(
        &mut self,
        claim: &mut Claim,
        purpose: Purpose,
        lease: Duration,
        id: &str,
    ) -> Result<(), End> {
        if purpose == Purpose::Snapshot && phase::gate_is_off() {
            return self.cut_without_gate(claim, lease, id);
        }
        // With the claim, nobody else opens it.
        if purpose == Purpose::Restore && claim.segment().shut().is_some() {
            self.connection.answer(&Answer::Frozen { shut: true })?;
            return match self
                .connection
                .control(self.connection.timeout() * PATIENCE)?
            {
                Ask::Shut => {
                    let part = if claim.segment().restorer() == Some(self.master()) {
                        Part::Enough
                    } else {
                        Part::TooLittle
                    };
                    self.restore(claim, part, id)
                }
                other => Err(End::out_of_turn(&other)),
            };
        }
        let started = Instant::now();
        let frozen = claim.freeze(lease).map_err(|error| refusal(&error))?;
        phase::reached(Phase::Frozen);
        self.connection.answer(&Answer::Frozen { shut: false })?;
        let left = lease.saturating_sub(started.elapsed());
        match self.connection.control(left) {
            Ok(Ask::Cut { copy_area }) if purpose == Purpose::Snapshot => {
                let copy_area = copy_area.min(self.agent.config.snapshot.copy_area);
                let cut = frozen.cut(copy_area).map_err(|error| refusal(&error))?;
                self.send_cut(claim, cut, started.elapsed(), id)
            }
            Ok(Ask::Shut) if purpose == Purpose::Restore => {
                frozen.shut().map_err(|error| refusal(&error))?;
                self.restore(claim, Part::Enough, id)
            }
            Ok(other) => Err(End::out_of_turn(&other)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(refusal(&FreezeError::Late))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// As [`Session::freeze`] without what makes it one instant on all servers: for the test that
    /// must see the difference.
    fn cut_without_gate(
        &mut self,
        claim: &mut Claim,
        lease: Duration,
        id: &str,
    ) -> Result<(), End> {
        self.connection.answer(&Answer::Frozen { shut: false })?;
        match self.connection.control(lease)? {
            Ask::Cut { copy_area } => {
                let started = Instant::now();
                let cut = claim
                    .freeze(lease)
                    .and_then(|frozen| frozen.cut(copy_area))
                    .map_err(|error| refusal(&error))?;
                self.send_cut(claim, cut, started.elapsed(), id)
            }
            other => Err(End::out_of_turn(&other)),
        }
    }
}

fn refusal(error: &FreezeError) -> End {
    let reason = match error {
        FreezeError::Shut(_) => Reason::Shut,
        FreezeError::Late => Reason::Late,
        FreezeError::Segment(_) => Reason::Failed,
    };
    End::Refused(reason, error.to_string())
}

/// An address in the one form in which addresses are compared.
fn as_ipv6(address: IpAddr) -> Ipv6Addr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// What this machine calls itself; empty when that cannot stand in a snapshot.
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
