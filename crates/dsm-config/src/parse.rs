//! Parses the text of a mcomp.cfg to a [`Config`]: the keys, their ranges and their defaults.

use super::diagnostic::{ConfigError, Lines};
use super::recorder::Recorder;
use super::table_reader::TableReader;
use super::toml_value::Rejection;
use super::{
    ClientSettings, CompressionLevel, Config, Endpoint, Key, Limits, LocalAccess, LogSettings,
    OnMemoryLoss, OperationLogMode, RecoverySettings, RetentionPolicy, Security, ServerSettings,
    SnapshotSettings,
};
use dsm_core::layout::{Layout, LayoutError, MAX_MEMORY, MAX_NAME, MAX_SERVERS, PAGE};
use log::LevelFilter;
use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::DeTable;

/// The name of a system whose file gives none.
const DEFAULT_NAME: &str = "dsm";

/// The most connections that one server accepts: each takes a descriptor and buffers.
pub const MAX_CONNECTIONS: usize = 4096;

/// The most threads that serve connections.
const MAX_THREADS: usize = 32;

/// A server's timeouts: with less than 100 ms a busy network breaks good connections, and more than
/// an hour bounds nothing.
const SERVER_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);

/// A client's timeout: a call over loopback ends in far less than 10 ms.
const CLIENT_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(3600);

/// The buffer memory, in bytes: from several of the longest requests to more than any machine
/// needs.
const BUFFER_MEMORY: RangeInclusive<u64> = (8 << 20)..=(1 << 40);

/// The size of the operation log's file, in bytes: more than one write to it, and less than a large
/// disk.
const LOG_SIZES: RangeInclusive<u64> = (1 << 20)..=(1 << 40);

/// A small part of a disk, which holds the last half minute of the busiest server.
const DEFAULT_LOG_SIZE: u64 = 1 << 30;

/// How long a snapshot may freeze the memory for its cut: a network round trip takes a fraction of
/// a millisecond, or much more between sites, and 10 s is as long as writers should ever wait.
const FREEZE_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(10);

/// The most snapshots, or days, that one retention rule keeps: dsm-snapshot reads the header of
/// each file whenever it adds one.
const MAX_KEPT: usize = 10_000;

/// The characters of a public key in base64: at least the 32 bytes of an Ed25519 key, at most more
/// than any key has.
const PUBLIC_KEY: RangeInclusive<usize> = 44..=1024;

/// The values of every table, if none has an error.
struct Values {
    name: String,
    k: Option<u64>,
    servers: Vec<ServerSettings>,
    security: Security,
    log: LogSettings,
    limits: Limits,
    client: ClientSettings,
    snapshot: SnapshotSettings,
    recovery: RecoverySettings,
}

/// Every key that mcomp.cfg may hold, in the order of the manual page: those that the parser asks a
/// file for.
#[must_use]
pub fn keys() -> Vec<Key> {
    let text = "[[server]]";
    let mut recorder = Recorder::new(text);
    if let Ok(tree) = DeTable::parse(text) {
        read(TableReader::root(&mut recorder, tree.get_ref()));
    }
    recorder.into_keys()
}

pub(super) fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let tree = DeTable::parse(text).map_err(|error| {
        let place = Lines::new(text).place(error.span().map_or(0, |span| span.start));
        ConfigError::single(
            path,
            place,
            format!("this is not TOML: {}", error.message()),
        )
    })?;
    let mut recorder = Recorder::new(text);
    let values = read(TableReader::root(&mut recorder, tree.get_ref()));
    let record = recorder.finish(path)?;
    let addresses = values
        .servers
        .iter()
        .map(|server| server.address.to_string())
        .collect();
    // `read` has reported a rule that one value breaks by itself, a missing k, and an n that
    // differs from the number of servers: only rules about several values are left.
    let layout =
        Layout::new(&values.name, values.k.unwrap_or_default(), addresses).map_err(|error| {
            let place = record
                .places
                .get(&key_of(&error))
                .copied()
                .unwrap_or(super::Place::START);
            ConfigError::single(path, place, error.to_string())
        })?;
    Ok(Config {
        layout,
        servers: values.servers,
        security: values.security,
        log: values.log,
        limits: values.limits,
        client: values.client,
        snapshot: values.snapshot,
        recovery: values.recovery,
        path: path.to_owned(),
        settings: record.settings,
        places: record.places,
    })
}

/// The key whose value breaks a rule of the layout.
fn key_of(error: &LayoutError) -> String {
    match error {
        LayoutError::Name(_) => "name".to_owned(),
        LayoutError::ShareSize(_) | LayoutError::TooLarge { .. } => "k".to_owned(),
        LayoutError::Count(_) => "n".to_owned(),
        LayoutError::Duplicate { second: index, .. } | LayoutError::Address { index, .. } => {
            format!("server.{index}.address")
        }
        // A rule that is not known here has no key: its error names the beginning of the file.
        _ => String::new(),
    }
}

fn read(mut root: TableReader<'_, '_>) -> Values {
    let allowed = format!("1 to {MAX_NAME} characters of a-z, A-Z, 0-9, '-' and '_'");
    let name = root.text(
        "name",
        &allowed,
        DEFAULT_NAME.to_owned(),
        String::clone,
        |text| Ok(text.to_owned()),
    );
    let k = root.required_size("k", "a size that is a multiple of 4KiB, such as \"64MiB\"");
    let n = root.required_integer("n", 1..=MAX_SERVERS);
    let servers = root.list("server", read_server);
    match (n, &servers) {
        (Some(n), Some(servers)) if n != servers.len() => {
            let tables = servers.len();
            root.add_error(
                "n",
                format!(
                    "n is {n}, but the number of [[server]] tables is {tables}: make them equal"
                ),
            );
        }
        (None, Some(servers)) if servers.is_empty() => {
            root.add_error(
                "server",
                "[[server]] is missing: write one such table for each server".to_owned(),
            );
        }
        _ => {}
    }
    for error in layout_errors(&name, k, servers.as_deref().unwrap_or_default()) {
        root.add_conflict(&key_of(&error), error.to_string());
    }
    for (key, message) in duplicate_snapshots(servers.as_deref().unwrap_or_default()) {
        root.add_conflict(&key, message);
    }
    let security = read_security(root.table("security"));
    let log = read_log(root.table("log"));
    let limits = read_limits(root.table("limits"));
    let client = read_client(root.table("client"));
    let snapshot = read_snapshot(root.table("snapshot"), k.unwrap_or_default());
    let recovery = read_recovery(root.table("recovery"));
    root.finish();
    let mut servers: Vec<ServerSettings> = servers.into_iter().flatten().flatten().collect();
    default_snapshots(&mut servers);
    Values {
        name,
        k,
        servers,
        security,
        log,
        limits,
        client,
        snapshot,
        recovery,
    }
}

/// The rules that the name, k and the addresses break each by itself. `Layout::new` reports only
/// the first, so each is tried with good values for the others.
fn layout_errors(
    name: &str,
    k: Option<u64>,
    servers: &[Option<ServerSettings>],
) -> Vec<LayoutError> {
    let one = || vec!["localhost:1".to_owned()];
    let complete: Option<Vec<String>> = servers
        .iter()
        .map(|server| server.as_ref().map(|server| server.address.to_string()))
        .collect();
    let tries = [
        Some((name, PAGE, one())),
        k.map(|k| (DEFAULT_NAME, k, one()))
            .filter(|(_, k, _)| *k <= MAX_MEMORY),
        complete
            .filter(|addresses| !addresses.is_empty())
            .map(|addresses| (DEFAULT_NAME, PAGE, addresses)),
    ];
    tries
        .into_iter()
        .flatten()
        .filter_map(|(name, k, addresses)| Layout::new(name, k, addresses).err())
        .collect()
}

/// The snapshot agents whose address is also that of a server or of an earlier agent: the key and
/// the message of each.
fn duplicate_snapshots(servers: &[Option<ServerSettings>]) -> Vec<(String, String)> {
    let known = || {
        servers
            .iter()
            .enumerate()
            .filter_map(|(index, server)| Some((index, server.as_ref()?)))
    };
    let mut taken: HashMap<String, String> = known()
        .map(|(index, server)| {
            (
                server.address.to_string(),
                format!("the address of server {index}"),
            )
        })
        .collect();
    let mut errors = Vec::new();
    for (index, snapshot) in
        known().filter_map(|(index, server)| Some((index, server.snapshot.as_ref()?.to_string())))
    {
        let key = format!("server.{index}.snapshot");
        match taken.get(&snapshot) {
            Some(other) => {
                errors.push((
                    key.clone(),
                    format!("{key} is {snapshot:?}, which is {other}: give it another port"),
                ));
            }
            None => drop(taken.insert(snapshot, format!("the snapshot of server {index}"))),
        }
    }
    errors
}

/// Gives each snapshot agent without an address its server's host and next port, unless the map
/// uses that already.
fn default_snapshots(servers: &mut [ServerSettings]) {
    let taken: HashSet<Endpoint> = servers
        .iter()
        .flat_map(|server| [Some(server.address.clone()), server.snapshot.clone()])
        .flatten()
        .collect();
    for server in servers
        .iter_mut()
        .filter(|server| server.snapshot.is_none())
    {
        server.snapshot = server
            .address
            .next_port()
            .filter(|address| !taken.contains(address));
    }
}

fn read_server(mut server: TableReader<'_, '_>) -> Option<ServerSettings> {
    const ALLOWED: &str =
        "\"host:port\", where the host is a name, an IPv4 address, or an IPv6 address in brackets";
    let address = |text: &str| {
        text.parse::<Endpoint>()
            .map_err(|error| Some(error.to_string()))
    };
    let settings = (
        server.required_text("address", ALLOWED, address),
        server.optional_text("snapshot", ALLOWED, address),
        server.optional_text("public_key", "base64 of 44 to 1024 characters", public_key),
    );
    server.finish();
    let (address, snapshot, public_key) = settings;
    Some(ServerSettings {
        address: address?,
        snapshot,
        public_key,
    })
}

fn read_security(mut security: TableReader<'_, '_>) -> Security {
    let trusted_network = security.boolean("trusted_network", false);
    security.finish();
    Security { trusted_network }
}

fn read_log(mut log: TableReader<'_, '_>) -> LogSettings {
    const LEVELS: [(&str, LevelFilter); 6] = [
        ("off", LevelFilter::Off),
        ("error", LevelFilter::Error),
        ("warn", LevelFilter::Warn),
        ("info", LevelFilter::Info),
        ("debug", LevelFilter::Debug),
        ("trace", LevelFilter::Trace),
    ];
    const MODES: [(&str, OperationLogMode); 3] = [
        ("off", OperationLogMode::Off),
        ("writes", OperationLogMode::Writes),
        ("all", OperationLogMode::All),
    ];
    let level = log.choice("level", LevelFilter::Info, &LEVELS);
    let operations = log.choice("operations", OperationLogMode::Off, &MODES);
    let directory = read_directory(&mut log, "/var/log/dsm");
    let max_size = log.size("max_size", DEFAULT_LOG_SIZE, LOG_SIZES);
    log.finish();
    LogSettings {
        level,
        operations,
        directory,
        max_size,
    }
}

fn read_directory(table: &mut TableReader<'_, '_>, default: &str) -> PathBuf {
    let show = |path: &PathBuf| path.display().to_string();
    table.text(
        "directory",
        "an absolute path",
        PathBuf::from(default),
        show,
        |text| {
            let path = PathBuf::from(text);
            if path.is_absolute() && !text.contains('\0') {
                Ok(path)
            } else {
                Err(None)
            }
        },
    )
}

fn read_limits(mut limits: TableReader<'_, '_>) -> Limits {
    let values = Limits {
        connections: limits.integer("connections", 1024, 1..=MAX_CONNECTIONS),
        threads: limits
            .optional_integer("threads", 1..=MAX_THREADS)
            .unwrap_or_else(processors),
        hello_timeout: limits.duration("hello_timeout", Duration::from_secs(5), SERVER_TIMEOUT),
        request_timeout: limits.duration(
            "request_timeout",
            Duration::from_secs(30),
            SERVER_TIMEOUT,
        ),
        shutdown_timeout: limits.duration(
            "shutdown_timeout",
            Duration::from_secs(5),
            SERVER_TIMEOUT,
        ),
        buffer_memory: limits.size("buffer_memory", 256 << 20, BUFFER_MEMORY),
    };
    limits.finish();
    values
}

/// The number of threads that this machine can run at once: more would only wait for each other.
fn processors() -> usize {
    std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(MAX_THREADS)
}

fn read_client(mut client: TableReader<'_, '_>) -> ClientSettings {
    const CHOICES: [(&str, LocalAccess); 2] =
        [("auto", LocalAccess::Auto), ("never", LocalAccess::Never)];
    let timeout = client.duration("timeout", Duration::from_secs(5), CLIENT_TIMEOUT);
    let local = client.choice("local", LocalAccess::Auto, &CHOICES);
    client.finish();
    ClientSettings { timeout, local }
}

fn read_snapshot(mut snapshot: TableReader<'_, '_>, k: u64) -> SnapshotSettings {
    let directory = read_directory(&mut snapshot, "/var/lib/dsm-snapshot");
    let keep = RetentionPolicy {
        newest: snapshot.integer("keep", 24, 1..=MAX_KEPT),
        daily: snapshot.integer("keep_daily", 0, 0..=MAX_KEPT),
        weekly: snapshot.integer("keep_weekly", 0, 0..=MAX_KEPT),
        lost: snapshot.integer("keep_lost", 30, 0..=MAX_KEPT),
    };
    let compression = snapshot.compression("compression", CompressionLevel::LOWEST);
    let copy_area = snapshot
        .optional_size("copy_area", 0..=MAX_MEMORY)
        .unwrap_or(k);
    let timeout = snapshot.duration("timeout", Duration::from_secs(30), SERVER_TIMEOUT);
    let freeze_timeout =
        snapshot.duration("freeze_timeout", Duration::from_millis(500), FREEZE_TIMEOUT);
    snapshot.finish();
    SnapshotSettings {
        directory,
        keep,
        compression,
        copy_area,
        timeout,
        freeze_timeout,
    }
}

fn read_recovery(mut recovery: TableReader<'_, '_>) -> RecoverySettings {
    const CHOICES: [(&str, OnMemoryLoss); 3] = [
        ("empty", OnMemoryLoss::Empty),
        ("wait", OnMemoryLoss::Wait),
        ("restore", OnMemoryLoss::Restore),
    ];
    let on_memory_loss = recovery.choice("on_memory_loss", OnMemoryLoss::Empty, &CHOICES);
    recovery.finish();
    RecoverySettings { on_memory_loss }
}

/// Base64 with its padding (RFC 4648).
fn public_key(text: &str) -> Result<String, Rejection> {
    let digits = text.trim_end_matches('=');
    let digit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/';
    let is_base64 =
        text.len().is_multiple_of(4) && text.len() - digits.len() <= 2 && digits.bytes().all(digit);
    if is_base64 && PUBLIC_KEY.contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(None)
    }
}
