//! The master's run: one cut of all servers, one file.

use super::error::{WriteError, way_out};
use super::phase::{self, Phase};
use super::transfer::transfer;
use super::{
    DEFAULT_FRAME, Destination, DirectoryError, Header, HeaderError, HeaderFields, ServerInfo,
    SnapshotWriter, Written, apply_retention, remove_stale_partials,
};
use crate::agent_protocol::{AgentError, FREEZE, Link};
use crate::agent_protocol::{Answer, Ask, Purpose};
use dsm_config::Config;
use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How a snapshot is to be made.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The index of the server whose machine this is. It then makes the snapshot only if it is the
    /// master. None: it makes the snapshot whoever else could.
    pub own: Option<usize>,
    /// A file without the servers that cannot be reached is better than none.
    pub allow_partial: bool,
    /// The file to write; otherwise one in `snapshot.directory`, whose old ones are then deleted.
    pub output: Option<PathBuf>,
}

/// What became of it.
#[derive(Debug)]
pub enum Created {
    /// There is a new file.
    Written {
        /// The snapshot's random id, 32 hexadecimal digits.
        id: String,
        /// When the cut was made, in ns since 1970.
        cut_time: u64,
        /// The file.
        file: Written,
        /// Each server's part, in map order.
        servers: Vec<ServerPart>,
        /// From the first connection to the file's name.
        duration: Duration,
        /// The names of old snapshots that were deleted.
        deleted: Vec<String>,
    },
    /// Another server is the first whose agent answers: that one is the master.
    NotMaster {
        /// The master's index.
        master: usize,
        /// The address of its agent.
        address: String,
    },
}

/// What one server gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPart {
    /// Its index.
    pub server: usize,
    /// How long its writers stood still, in µs.
    pub pause_us: u64,
    /// Pages that were overwritten while it was read.
    pub pages_copied: u64,
}

/// Why there is no new file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// Servers are missing.
    #[error(
        "{} of {n} servers cannot be in the snapshot, so there is none: {}{}",
        .missing.len(),
        list(.missing),
        if *.possible { ". With --allow-partial there is one without them" } else { "" }
    )]
    Missing {
        /// Why each of them is.
        missing: Vec<AgentError>,
        /// The number of servers.
        n: usize,
        /// Others could be in it.
        possible: bool,
    },
    /// An agent failed after the snapshot had begun.
    #[error("the snapshot was abandoned, and there is no new file: {0}")]
    Agent(#[from] AgentError),
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The directory cannot be used.
    #[error("{error}{}; there is no new snapshot", way_out(.0.kind()), error = .0)]
    Directory(#[from] DirectoryError),
    /// The map cannot be a header.
    #[error("no header can be made for the snapshot: {0}")]
    Header(#[from] HeaderError),
    /// The kernel gives no random bytes.
    #[error("{0}")]
    System(String),
}

impl CreateError {
    /// The exit code of a program that fails by it, after `sysexits(3)`.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Agent(error) => error.exit_code(),
            Self::Missing { .. } => 69,
            Self::Write(WriteError::PartialName(_)) => 64,
            Self::Write(WriteError::UnderWay(_)) => 75,
            Self::Write(WriteError::Frame { .. } | WriteError::Order { .. }) => 76,
            Self::Write(WriteError::System { source, .. })
                if source.kind() == ErrorKind::PermissionDenied =>
            {
                77
            }
            Self::Directory(error) if error.kind() == ErrorKind::PermissionDenied => 77,
            Self::Write(_) | Self::Directory(_) => 74,
            Self::Header(_) | Self::System(_) => 70,
        }
    }
}

/// One after the other; what to do about agents that cannot be reached is said once, with the last
/// of them.
fn list(errors: &[AgentError]) -> String {
    let last = errors
        .iter()
        .rposition(|error| matches!(error, AgentError::Unreachable { .. }));
    let text = |(position, error): (usize, &AgentError)| match error {
        AgentError::Unreachable {
            server,
            address,
            source,
        } if Some(position) != last => {
            format!("the snapshot agent of server {server} ({address}) cannot be reached: {source}")
        }
        error => error.to_string(),
    };
    errors
        .iter()
        .enumerate()
        .map(text)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Takes a snapshot of the whole memory. `progress` is told how many of how many bytes of memory
/// are written.
///
/// # Errors
/// [`CreateError`]; there is no new file then, and those of before are as they were.
pub fn create(
    config: &Config,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Created, CreateError> {
    let started = Instant::now();
    let (mut links, mut missing) = (Vec::new(), Vec::new());
    for link in Link::open_all(config, 0..config.layout.n()) {
        match link {
            Ok(link) => links.push(link),
            Err(error) => missing.push(error),
        }
    }
    if let (Some(own), Some(master)) = (options.own, links.first().map(Link::server))
        && master != own
    {
        for error in missing.iter().filter(|_| own < master) {
            log::warn!("{error}");
        }
        let address = config.servers[master]
            .snapshot
            .as_ref()
            .map_or(String::new(), ToString::to_string);
        return Ok(Created::NotMaster { master, address });
    }
    check_missing(config, options, &links, missing)?;
    let destination = match &options.output {
        Some(file) if file.extension().is_some_and(|end| end == "partial") => {
            return Err(WriteError::PartialName(file.clone()).into());
        }
        Some(file) => Destination::File(file.clone()),
        None => Destination::Directory(config.snapshot.directory.clone()),
    };
    let removed =
        remove_stale_partials(destination.folder()).or_else(|error| match destination {
            Destination::Directory(_) => Err(error),
            // It may be one where files are only put; if there is none, that is said in a moment.
            Destination::File(_) => Ok(Vec::new()),
        })?;
    for name in removed {
        log::warn!("removed {name}, which a snapshot that was cut short has left");
    }
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|error| CreateError::System(format!("no random id: {error}")))?;
    let text = hex(&id);
    let incarnations = claim(config, options, &mut links, &text)?;
    let (cut_time, pauses) = cut(config, &mut links)?;
    let header = header(config, options, id, cut_time, &links, &incarnations)?;
    let writer = SnapshotWriter::create(destination.clone(), header, config.snapshot.compression)?;
    let (file, copied) = transfer(config, links, writer, progress)?;
    phase::reached(Phase::Renamed);
    let deleted = match &destination {
        Destination::Directory(directory) => {
            apply_retention(
                directory,
                config.layout.name(),
                config.snapshot.keep,
                cut_time,
            )
            .unwrap_or_else(|error| {
                // The new file is there, and that is what was asked for.
                log::error!("old snapshots were not deleted: {error}");
                Vec::new()
            })
        }
        Destination::File(_) => Vec::new(),
    };
    let servers = pauses
        .into_iter()
        .map(|(server, pause_us)| ServerPart {
            server,
            pause_us,
            pages_copied: copied[server],
        })
        .collect();
    Ok(Created::Written {
        id: text,
        cut_time,
        file,
        servers,
        duration: started.elapsed(),
        deleted,
    })
}

fn check_missing(
    config: &Config,
    options: &Options,
    links: &[Link],
    missing: Vec<AgentError>,
) -> Result<(), CreateError> {
    if missing.is_empty() {
        return Ok(());
    }
    if !options.allow_partial || links.is_empty() {
        return Err(CreateError::Missing {
            missing,
            n: config.layout.n(),
            possible: !links.is_empty(),
        });
    }
    for error in missing {
        log::warn!("the snapshot will be partial: {error}");
    }
    Ok(())
}

/// Claims the segments, in map order, so that of two masters one is ahead everywhere. Returns the
/// incarnations by server, 0 where there is none. What cannot be claimed leaves the links.
fn claim(
    config: &Config,
    options: &Options,
    links: &mut Vec<Link>,
    id: &str,
) -> Result<Vec<u64>, CreateError> {
    let mut incarnations = vec![0; config.layout.n()];
    let (mut claimed, mut missing) = (Vec::new(), Vec::new());
    for mut link in links.drain(..) {
        match link.claim(Purpose::Snapshot, id) {
            Ok(incarnation) => {
                incarnations[link.server()] = incarnation;
                claimed.push(link);
            }
            Err(error @ AgentError::UnderWay { .. }) => return Err(error.into()),
            Err(error) => missing.push(error),
        }
    }
    check_missing(config, options, &claimed, missing)?;
    *links = claimed;
    Ok(incarnations)
}

/// Freezes all, then cuts all. Returns when, and how long each server's writers stood still.
fn cut(config: &Config, links: &mut [Link]) -> Result<(u64, Vec<(usize, u64)>), CreateError> {
    const CUT: &str = "make the cut";
    let lease = config.snapshot.freeze_timeout;
    let lease_us = u64::try_from(lease.as_micros()).unwrap_or(u64::MAX);
    for link in &*links {
        link.ask(&Ask::Freeze { lease_us }, FREEZE)?;
    }
    for link in &mut *links {
        match link.answer(FREEZE, lease)? {
            Answer::Frozen { shut: false } => {}
            other => return Err(link.unexpected(&other).into()),
        }
    }
    phase::reached(Phase::Frozen);
    // Until it was sent to all, every server is frozen; from the first that gets it on, they need
    // not be any more.
    let cut_time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos());
    for link in &*links {
        link.ask(
            &Ask::Cut {
                copy_area: config.snapshot.copy_area,
            },
            CUT,
        )?;
    }
    let mut pauses = Vec::with_capacity(links.len());
    for link in &mut *links {
        match link.answer(CUT, config.snapshot.timeout)? {
            Answer::Cut { pause_us } => pauses.push((link.server(), pause_us)),
            other => return Err(link.unexpected(&other).into()),
        }
    }
    phase::reached(Phase::Cut);
    Ok((u64::try_from(cut_time).unwrap_or(u64::MAX), pauses))
}

fn header(
    config: &Config,
    options: &Options,
    id: [u8; 16],
    cut_time: u64,
    links: &[Link],
    incarnations: &[u64],
) -> Result<Header, HeaderError> {
    let hostname = |server| {
        links
            .iter()
            .find(|link| link.server() == server)
            .map_or("", Link::hostname)
            .to_owned()
    };
    let servers = incarnations
        .iter()
        .enumerate()
        .map(|(server, incarnation)| ServerInfo {
            incarnation: NonZeroU64::new(*incarnation),
            hostname: hostname(server),
        });
    Header::new(HeaderFields {
        id,
        cut_time,
        layout: config.layout.clone(),
        servers: servers.collect(),
        master: options.own,
        frame_size: DEFAULT_FRAME,
    })
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
