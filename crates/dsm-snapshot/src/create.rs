//! Creating a snapshot, as the master: one cut of all servers, one file. A run that fails leaves no
//! new file, and does not change the older ones.

use super::error::{WriteError, hint};
use super::phase::{self, SnapshotPhase};
use super::transfer::transfer;
use super::{
    DEFAULT_FRAME, Destination, DirectoryError, Header, HeaderError, HeaderFields, ServerInfo,
    SnapshotWriter, Written, apply_retention, remove_stale_partials,
};
use crate::agent_protocol::{AgentConnection, AgentError, FREEZE_TASK};
use crate::agent_protocol::{AgentRequest, AgentResponse, LockPurpose};
use dsm_config::Config;
use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The options of [`create`].
#[derive(Debug, Clone, Default)]
pub struct CreateOptions {
    /// The index of the server on this machine: the snapshot is created only if that server is the
    /// master. None: it is created regardless of which server is the master.
    pub own: Option<usize>,
    /// Create a file without the servers that cannot be reached.
    pub allow_partial: bool,
    /// The file to write. None: a new file in `snapshot.directory`, after which old snapshots there
    /// are deleted.
    pub output: Option<PathBuf>,
}

/// The outcome of [`create`].
#[derive(Debug)]
pub enum Created {
    /// A new file was written.
    Written {
        /// The snapshot's random id, 32 hexadecimal digits.
        id: String,
        /// The time of the cut, in ns since 1970.
        cut_time: u64,
        /// The file.
        file: Written,
        /// Each server's part, in map order.
        servers: Vec<ServerPart>,
        /// The time from the first connection until the file had its name.
        duration: Duration,
        /// The names of old snapshots that were deleted.
        deleted: Vec<String>,
    },
    /// A server with a lower index has an agent that answers: that server is the master.
    NotMaster {
        /// The master's index.
        master: usize,
        /// The address of its agent.
        address: String,
    },
}

/// The share of one server in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerPart {
    /// Its index.
    pub server: usize,
    /// How long its writers were kept out, in µs.
    pub pause_us: u64,
    /// The number of pages that writers overwrote while the agent read the cut.
    pub pages_copied: u64,
}

/// Why no new file was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// Servers cannot take part.
    #[error(
        "{} of {n} servers cannot be in the snapshot, so none was written: {}{}",
        .missing.len(),
        list(.missing),
        if *.possible { ". To write a snapshot without them, add --allow-partial" } else { "" }
    )]
    Missing {
        /// The reason for each of them.
        missing: Vec<AgentError>,
        /// The number of servers.
        n: usize,
        /// Other servers could take part.
        possible: bool,
    },
    /// An agent failed after it had taken the snapshot lock.
    #[error("the snapshot was abandoned, and no new file was written: {0}")]
    Agent(#[from] AgentError),
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The directory cannot be used.
    #[error("{error}{}; no new snapshot was written", hint(.0.kind()), error = .0)]
    Directory(#[from] DirectoryError),
    /// The network map does not fit into a header.
    #[error("the header of the snapshot cannot be written: {0}")]
    Header(#[from] HeaderError),
    /// The kernel returned no random bytes.
    #[error("{0}")]
    System(String),
}

impl CreateError {
    /// The exit code of a program that fails with this error, after `sysexits(3)`.
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

/// Joins the errors. The hint for agents that cannot be reached is printed once, with the last of
/// them.
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

/// Takes a snapshot of the whole memory. Calls `progress` with the bytes of memory that are done
/// and the bytes in all.
///
/// # Errors
/// [`CreateError`]; no new file was written then, and the older files were not changed.
pub fn create(
    config: &Config,
    options: &CreateOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Created, CreateError> {
    let started = Instant::now();
    let (mut connections, mut missing) = (Vec::new(), Vec::new());
    for connection in AgentConnection::open_all(config, 0..config.layout.server_count()) {
        match connection {
            Ok(connection) => connections.push(connection),
            Err(error) => missing.push(error),
        }
    }
    if let (Some(own), Some(master)) = (
        options.own,
        connections.first().map(AgentConnection::server),
    ) && master != own
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
    check_missing(config, options, &connections, missing)?;
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
            // The directory may allow writing and not reading. If it does not exist, creating the
            // file reports that.
            Destination::File(_) => Ok(Vec::new()),
        })?;
    for name in removed {
        log::warn!("removed {name}, the remains of a snapshot that was cut short");
    }
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|error| CreateError::System(format!("no random id: {error}")))?;
    let text = hex(&id);
    let incarnations = lock_segments(config, options, &mut connections, &text)?;
    let (cut_time, pauses) = cut(config, &mut connections)?;
    let header = header(config, options, id, cut_time, &connections, &incarnations)?;
    let writer = SnapshotWriter::create(destination.clone(), header, config.snapshot.compression)?;
    let (file, copied) = transfer(config, connections, writer, progress)?;
    phase::reached(SnapshotPhase::Renamed);
    let deleted = match &destination {
        Destination::Directory(directory) => {
            apply_retention(
                directory,
                config.layout.name(),
                config.snapshot.keep,
                cut_time,
            )
            .unwrap_or_else(|error| {
                // The new file was written: the run has succeeded.
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
    options: &CreateOptions,
    connections: &[AgentConnection],
    missing: Vec<AgentError>,
) -> Result<(), CreateError> {
    if missing.is_empty() {
        return Ok(());
    }
    if !options.allow_partial || connections.is_empty() {
        return Err(CreateError::Missing {
            missing,
            n: config.layout.server_count(),
            possible: !connections.is_empty(),
        });
    }
    for error in missing {
        log::warn!("the snapshot will be partial: {error}");
    }
    Ok(())
}

/// Takes the snapshot locks in map order: of two masters, the one that gets the first lock gets
/// all. Returns the incarnation of each server, 0 where there is none. Drops the connections of
/// servers whose lock cannot be taken.
fn lock_segments(
    config: &Config,
    options: &CreateOptions,
    connections: &mut Vec<AgentConnection>,
    id: &str,
) -> Result<Vec<u64>, CreateError> {
    let mut incarnations = vec![0; config.layout.server_count()];
    let (mut locked, mut missing) = (Vec::new(), Vec::new());
    for mut connection in connections.drain(..) {
        match connection.take_snapshot_lock(LockPurpose::Snapshot, id) {
            Ok(incarnation) => {
                incarnations[connection.server()] = incarnation;
                locked.push(connection);
            }
            Err(error @ AgentError::UnderWay { .. }) => return Err(error.into()),
            Err(error) => missing.push(error),
        }
    }
    check_missing(config, options, &locked, missing)?;
    *connections = locked;
    Ok(incarnations)
}

/// Freezes all servers, then cuts all. Returns the time of the cut, and how long each server's
/// writers were kept out.
fn cut(
    config: &Config,
    connections: &mut [AgentConnection],
) -> Result<(u64, Vec<(usize, u64)>), CreateError> {
    const CUT: &str = "make the cut";
    let lease = config.snapshot.freeze_timeout;
    let lease_us = u64::try_from(lease.as_micros()).unwrap_or(u64::MAX);
    for connection in &*connections {
        connection.send_request(&AgentRequest::Freeze { lease_us }, FREEZE_TASK)?;
    }
    for connection in &mut *connections {
        match connection.receive_response(FREEZE_TASK, lease)? {
            AgentResponse::Frozen { shut: false } => {}
            other => return Err(connection.unexpected(&other).into()),
        }
    }
    phase::reached(SnapshotPhase::Frozen);
    // All servers are frozen when the first `cut` is sent, so the cuts of all servers show this
    // instant.
    let cut_time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos());
    for connection in &*connections {
        connection.send_request(
            &AgentRequest::Cut {
                copy_area: config.snapshot.copy_area,
            },
            CUT,
        )?;
    }
    let mut pauses = Vec::with_capacity(connections.len());
    for connection in &mut *connections {
        match connection.receive_response(CUT, config.snapshot.timeout)? {
            AgentResponse::Cut { pause_us } => pauses.push((connection.server(), pause_us)),
            other => return Err(connection.unexpected(&other).into()),
        }
    }
    phase::reached(SnapshotPhase::Cut);
    Ok((u64::try_from(cut_time).unwrap_or(u64::MAX), pauses))
}

fn header(
    config: &Config,
    options: &CreateOptions,
    id: [u8; 16],
    cut_time: u64,
    connections: &[AgentConnection],
    incarnations: &[u64],
) -> Result<Header, HeaderError> {
    let hostname = |server| {
        connections
            .iter()
            .find(|connection| connection.server() == server)
            .map_or("", AgentConnection::hostname)
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

/// The bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
