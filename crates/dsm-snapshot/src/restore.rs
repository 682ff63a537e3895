//! Putting a snapshot back into the live memory: all servers that it touches, or none.

use super::SnapshotFile;
use super::create::hex;
use super::error::ReadError;
use super::stream::each_part;
use crate::agent_protocol::{AgentError, FREEZE, Link, RECEIVE};
use crate::agent_protocol::{Answer, Ask, Purpose};
use dsm_config::Config;
use dsm_core::layout::{OutsideMemory, PAGE};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long the memory is watched for somebody who writes.
const WATCH: Duration = Duration::from_secs(1);

/// How often, and how many times, an agent that was lost is looked for when its server must be
/// opened: the service manager starts one as soon as somebody connects.
const RETRY: Duration = Duration::from_millis(500);
const TRIES: u32 = 20;

/// Servers that are written at the same time.
const WRITERS: usize = 4;

/// What of a snapshot goes where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The addresses of the live memory that are replaced.
    pub addresses: Range<u64>,
    /// The addresses of them that the snapshot has; the rest becomes zeros.
    pub from_snapshot: Range<u64>,
}

/// How it is done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Also while somebody writes.
    pub force: bool,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The servers whose memory was replaced, and its new incarnations.
    pub incarnations: Vec<(usize, u64)>,
    /// Bytes that the snapshot had for them, zeros left out.
    pub bytes: u64,
}

/// Why nothing was restored, or not all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The snapshot is of a larger memory.
    #[error(
        "the snapshot is of {snapshot} bytes, and the memory has {memory}: make it larger (k or n in mcomp.cfg), or \
         restore a part with --range ADDRESS LENGTH"
    )]
    TooLarge {
        /// Bytes that the snapshot shows.
        snapshot: u64,
        /// Bytes of the live memory.
        memory: u64,
    },
    /// Servers are missing in the snapshot.
    #[error("the snapshot is partial, without {}: restore what it has with --range ADDRESS LENGTH", named(.0))]
    Partial(Vec<usize>),
    /// The range is not in the live memory.
    #[error("the range is not in the live memory: {0}")]
    Outside(#[from] OutsideMemory),
    /// The file is damaged, cannot be read, or does not have the range.
    #[error("nothing was restored, and the memory is as it was: {0}")]
    Read(#[from] ReadError),
    /// Somebody writes.
    #[error(
        "somebody changes the memory of server {0}: what they write would be lost, and they would not expect it. Stop \
         them first, or restore with --force"
    )]
    Busy(usize),
    /// The memory of a server waits for all of it, and a part is to be restored.
    #[error(
        "the memory of server {server} is lost or half restored, and a part of it would open it as it is: restore all of \
         it, with --range {} {}, or without --range, or begin with zeros first (dsmctl memory accept-empty)",
        .addresses.start, .addresses.end - .addresses.start
    )]
    NotWhole {
        /// The server's index.
        server: usize,
        /// The addresses that it holds.
        addresses: Range<u64>,
    },
    /// An agent failed before anything was changed.
    #[error("nothing was restored, and the memory is as it was: {0}")]
    Agent(#[from] AgentError),
    /// Something failed when a part had been replaced.
    #[error(
        "the restore was cut short: {cause}. The memory of {} may neither be read nor changed now, where dsmctl status \
         does not say that it is in use: restore again, or begin with zeros (dsmctl memory accept-empty)", named(.servers)
    )]
    CutShort {
        /// What failed.
        cause: Interruption,
        /// The servers that wait for a restore.
        servers: Vec<usize>,
    },
}

impl RestoreError {
    /// The exit code of a program that fails by it, after `sysexits(3)`.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::TooLarge { .. } | Self::Partial(_) | Self::Outside(_) | Self::NotWhole { .. } => {
                65
            }
            Self::Read(error)
            | Self::CutShort {
                cause: Interruption::Read(error),
                ..
            } => error.exit_code(),
            Self::Busy(_) => 75,
            Self::Agent(error)
            | Self::CutShort {
                cause: Interruption::Agent(error),
                ..
            } => error.exit_code(),
        }
    }
}

/// What stopped a restore in the middle.
#[derive(Debug, thiserror::Error)]
pub enum Interruption {
    /// The file, which was sound before.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

fn named(servers: &[usize]) -> String {
    let numbers = servers
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    format!(
        "server{} {numbers}",
        if servers.len() == 1 { "" } else { "s" }
    )
}

impl Plan {
    /// Plans to restore all of the snapshot into the memory of `config`, or only `range` (address
    /// and length) of it.
    ///
    /// # Errors
    /// When it does not fit, or is not in the snapshot.
    pub fn new(
        config: &Config,
        file: &SnapshotFile,
        range: Option<(u64, u64)>,
    ) -> Result<Self, RestoreError> {
        let (layout, header) = (&config.layout, file.header());
        if let Some((address, length)) = range {
            drop(layout.pieces(address, length)?);
            file.check_range(address, length)?;
            let addresses = address..address + length;
            return Ok(Self {
                from_snapshot: addresses.clone(),
                addresses,
            });
        }
        let missing: Vec<usize> = (0..header.layout().n())
            .filter(|server| !header.has(*server))
            .collect();
        if !missing.is_empty() {
            return Err(RestoreError::Partial(missing));
        }
        let (snapshot, memory) = (header.layout().size(), layout.size());
        if snapshot > memory {
            return Err(RestoreError::TooLarge { snapshot, memory });
        }
        Ok(Self {
            addresses: 0..memory,
            from_snapshot: 0..snapshot,
        })
    }

    /// The parts of it by server: the server's index, and its addresses.
    fn parts(&self, config: &Config) -> Result<Vec<(usize, Range<u64>)>, RestoreError> {
        let pieces = config.layout.pieces(
            self.addresses.start,
            self.addresses.end - self.addresses.start,
        )?;
        Ok(pieces
            .map(|piece| (piece.server, piece.address..piece.address + piece.length))
            .collect())
    }
}

/// Carries out the plan. The file should have been verified before. `progress` is told how many of
/// how many bytes of the live memory are done.
///
/// # Errors
/// [`RestoreError`]; only [`RestoreError::CutShort`] says that something was changed.
pub fn restore(
    config: &Config,
    file: &SnapshotFile,
    plan: &Plan,
    options: Options,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Restored, RestoreError> {
    let id = hex(&file.header().id());
    let parts = plan.parts(config)?;
    let mut links = Vec::with_capacity(parts.len());
    for (server, _) in &parts {
        let mut link = Link::open(config, *server)?;
        link.claim(Purpose::Restore, &id)?;
        links.push(link);
    }
    if !options.force {
        watch(&mut links)?;
    }
    shut(config, &mut links, &parts)?;
    let servers = parts.iter().map(|(server, _)| *server).collect::<Vec<_>>();
    let cut_short = |servers, cause| RestoreError::CutShort { servers, cause };
    let k = config.layout.k();
    let bytes = begin(k, file, plan, &parts, &mut links)
        .and_then(|()| fill(k, file, plan, &parts, &mut links, progress))
        .map_err(|error| cut_short(servers.clone(), error))?;
    let incarnations = open(config, file, plan, &parts, &mut links, &id)?;
    Ok(Restored {
        incarnations,
        bytes,
    })
}

/// Looks twice whether anybody changes the memory.
fn watch(links: &mut [Link]) -> Result<(), RestoreError> {
    let mut look = || {
        let mut numbers = Vec::with_capacity(links.len());
        for link in &mut *links {
            match link.request(&Ask::Activity, "say whether somebody writes")? {
                Answer::Activity { number } => numbers.push((link.server(), number)),
                other => return Err(link.unexpected(&other)),
            }
        }
        Ok(numbers)
    };
    let before = look()?;
    std::thread::sleep(WATCH);
    let after = look()?;
    match before
        .iter()
        .zip(&after)
        .find(|(before, after)| before != after)
    {
        Some(((server, _), _)) => Err(RestoreError::Busy(*server)),
        None => Ok(()),
    }
}

/// Freezes all and then shuts all; when one fails, those that were shut are opened again.
fn shut(
    config: &Config,
    links: &mut [Link],
    parts: &[(usize, Range<u64>)],
) -> Result<(), RestoreError> {
    const SHUT: &str = "shut its memory";
    let lease = config.snapshot.freeze_timeout;
    let lease_us = u64::try_from(lease.as_micros()).unwrap_or(u64::MAX);
    for link in &*links {
        link.ask(&Ask::Freeze { lease_us }, FREEZE)?;
    }
    for (link, (server, part)) in links.iter_mut().zip(parts) {
        let (server, base) = (*server, *server as u64 * config.layout.k());
        let addresses = base..base + config.layout.k();
        match link.answer(FREEZE, lease)? {
            Answer::Frozen { shut: true } if *part != addresses => {
                return Err(RestoreError::NotWhole { server, addresses });
            }
            Answer::Frozen { .. } => {}
            other => return Err(link.unexpected(&other).into()),
        }
    }
    let asked: Vec<_> = links
        .iter()
        .map(|link| link.ask(&Ask::Shut, SHUT))
        .collect();
    let mut cause = None;
    // Those that are shut, or may be: not those that have refused.
    let mut shut = Vec::with_capacity(links.len());
    for (link, asked) in links.iter_mut().zip(asked) {
        let answer = asked.and_then(|()| match link.answer(SHUT, config.snapshot.timeout)? {
            Answer::Shut => Ok(()),
            other => Err(link.unexpected(&other)),
        });
        if !matches!(answer, Err(AgentError::Refused { .. })) {
            shut.push(link);
        }
        if let Err(error) = answer {
            cause = cause.or(Some(error));
        }
    }
    let Some(cause) = cause else { return Ok(()) };
    let mut servers = Vec::new();
    for link in shut {
        if !matches!(
            link.request(&Ask::Cancel, "open its memory again"),
            Ok(Answer::Cancelled { open: true })
        ) {
            servers.push(link.server());
        }
    }
    Err(if servers.is_empty() {
        cause.into()
    } else {
        RestoreError::CutShort {
            cause: cause.into(),
            servers,
        }
    })
}

/// Opens all, those after one that fails too: every byte of theirs is there. With the first that is
/// open, the others must follow: one whose agent died is done again as soon as there is an agent.
fn open(
    config: &Config,
    file: &SnapshotFile,
    plan: &Plan,
    parts: &[(usize, Range<u64>)],
    links: &mut [Link],
    id: &str,
) -> Result<Vec<(usize, u64)>, RestoreError> {
    let mut incarnations = Vec::with_capacity(links.len());
    let (mut cause, mut servers) = (None, Vec::new());
    let answers: Vec<_> = links.iter_mut().map(commit).collect();
    for ((link, part), answer) in links.iter().zip(parts).zip(answers) {
        match answer.or_else(|error| open_again(config, file, plan, part, id).ok_or(error)) {
            Ok(incarnation) => incarnations.push((link.server(), incarnation)),
            Err(error) => {
                servers.push(link.server());
                cause = cause.or(Some(error));
            }
        }
    }
    match cause {
        None => Ok(incarnations),
        Some(cause) => Err(RestoreError::CutShort {
            cause: cause.into(),
            servers,
        }),
    }
}

fn commit(link: &mut Link) -> Result<u64, AgentError> {
    match link.request(&Ask::Commit, "open its memory")? {
        Answer::Committed { incarnation } => Ok(incarnation),
        other => Err(link.unexpected(&other)),
    }
}

/// Restores and opens a server whose agent was lost when it was to open it. None when there is no
/// agent for a while.
fn open_again(
    config: &Config,
    file: &SnapshotFile,
    plan: &Plan,
    part: &(usize, Range<u64>),
    id: &str,
) -> Option<u64> {
    (0..TRIES).find_map(|_| {
        std::thread::sleep(RETRY);
        let again = || -> Result<u64, Interruption> {
            let mut link = Link::open(config, part.0)?;
            let incarnation = link.claim(Purpose::Restore, id)?;
            let lease_us =
                u64::try_from(config.snapshot.freeze_timeout.as_micros()).unwrap_or(u64::MAX);
            match link.request(&Ask::Freeze { lease_us }, "say whether it is shut")? {
                // It was opened before the connection was lost.
                Answer::Frozen { shut: false } => return Ok(incarnation),
                Answer::Frozen { shut: true } => {}
                other => return Err(link.unexpected(&other).into()),
            }
            match link.request(&Ask::Shut, "shut its memory")? {
                Answer::Shut => {}
                other => return Err(link.unexpected(&other).into()),
            }
            let base = part.0 as u64 * config.layout.k();
            fill_server(file, plan, &part.1, base, &mut link, &|_| {})?;
            Ok(commit(&mut link)?)
        };
        again()
            .inspect_err(|error| log::warn!("server {} is not open yet: {error}", part.0))
            .ok()
    })
}

/// Writes the first page of every part: an agent opens a memory again that its master does not
/// begin to change in time, and most of them would wait for others otherwise.
fn begin(
    k: u64,
    file: &SnapshotFile,
    plan: &Plan,
    parts: &[(usize, Range<u64>)],
    links: &mut [Link],
) -> Result<(), Interruption> {
    for (link, (server, addresses)) in links.iter().zip(parts) {
        let end = addresses.end.min(addresses.start + PAGE);
        let in_snapshot =
            addresses.start.max(plan.from_snapshot.start)..end.min(plan.from_snapshot.end);
        // At most a page.
        #[allow(clippy::cast_possible_truncation)]
        let mut bytes = vec![0; (end - addresses.start) as usize];
        each_part::<_, Interruption>(file, &in_snapshot, |address, data| {
            #[allow(clippy::cast_possible_truncation)]
            let place = (address - addresses.start) as usize;
            bytes[place..place + data.len()].copy_from_slice(data);
            Ok(())
        })?;
        link.send_data(addresses.start - *server as u64 * k, &bytes)?;
        link.ask(&Ask::Written, RECEIVE)?;
    }
    for link in links {
        match link.answer(RECEIVE, link.timeout())? {
            Answer::Written => {}
            other => return Err(link.unexpected(&other).into()),
        }
    }
    Ok(())
}

/// Writes every byte of every part, a few servers at a time. Returns the bytes that came from the
/// snapshot.
fn fill(
    k: u64,
    file: &SnapshotFile,
    plan: &Plan,
    parts: &[(usize, Range<u64>)],
    links: &mut [Link],
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<u64, Interruption> {
    let total = plan.addresses.end - plan.addresses.start;
    let done = Mutex::new((0, progress));
    let advance = |bytes: u64| {
        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
        done.0 += bytes;
        let so_far = done.0;
        (done.1)(so_far, total);
    };
    let waiting = Mutex::new(links.iter_mut().zip(parts));
    let outcome = Mutex::new(Ok(0));
    std::thread::scope(|scope| {
        for _ in 0..WRITERS.min(parts.len()) {
            scope.spawn(|| {
                loop {
                    let next = waiting
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .next();
                    let Some((link, (server, addresses))) = next else {
                        return;
                    };
                    let filled =
                        fill_server(file, plan, addresses, *server as u64 * k, link, &advance);
                    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                    match (&mut *outcome, filled) {
                        (Ok(bytes), Ok(more)) => *bytes += more,
                        (Ok(_), Err(error)) => *outcome = Err(error),
                        (Err(_), _) => {}
                    }
                    if outcome.is_err() {
                        return;
                    }
                }
            });
        }
    });
    outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn fill_server(
    file: &SnapshotFile,
    plan: &Plan,
    addresses: &Range<u64>,
    base: u64,
    link: &mut Link,
    advance: &dyn Fn(u64),
) -> Result<u64, Interruption> {
    let (mut next, mut bytes) = (addresses.start, 0);
    let zeros = |link: &Link, from: u64, to: u64| -> Result<(), Interruption> {
        if from < to {
            link.ask(
                &Ask::Zeros {
                    offset: from - base,
                    length: to - from,
                },
                RECEIVE,
            )?;
            advance(to - from);
        }
        Ok(())
    };
    let from_snapshot =
        addresses.start.max(plan.from_snapshot.start)..addresses.end.min(plan.from_snapshot.end);
    each_part::<_, Interruption>(file, &from_snapshot, |address, data| {
        zeros(link, next, address)?;
        link.send_data(address - base, data)?;
        next = address + data.len() as u64;
        bytes += data.len() as u64;
        advance(data.len() as u64);
        Ok(())
    })?;
    zeros(link, next, addresses.end)?;
    match link.request(&Ask::Written, RECEIVE)? {
        Answer::Written => Ok(bytes),
        other => Err(link.unexpected(&other).into()),
    }
}

/// Lets servers whose memory waits for a restore begin with zeros: the one given, or all that wait.
/// Returns each server that did with its new incarnation, or why not.
#[must_use]
pub fn accept_empty(
    config: &Config,
    server: Option<usize>,
) -> Vec<(usize, Result<u64, AgentError>)> {
    let servers = server.map_or(0..config.layout.n(), |server| server..server + 1);
    let accept = |server| {
        let mut link = Link::open(config, server)?;
        match link.request(&Ask::Accept, "begin with zeros")? {
            Answer::Committed { incarnation } => Ok(incarnation),
            other => Err(link.unexpected(&other)),
        }
    };
    servers.map(|server| (server, accept(server))).collect()
}
