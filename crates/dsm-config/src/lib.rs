//! Parses mcomp.cfg once, to types that hold only good values. `man/mcomp.cfg.5` specifies the
//! file.

mod capacity;
mod diagnostic;
mod endpoint;
mod identity;
mod parse;
mod recorder;
mod snapshots;
mod suggestion;
mod table_reader;
mod toml_value;
mod trust;
mod units;

pub use dsm_core::LocalAccess;

pub use capacity::check_capacity;
pub use diagnostic::{ConfigError, Diagnostic, MAX_DIAGNOSTICS, Place};
pub use endpoint::{Endpoint, EndpointError, Host};
pub use identity::{IdentityError, own_index};
pub use parse::{MAX_CONNECTIONS, keys};
pub use snapshots::{Compression, CompressionLevel, RetentionPolicy};
pub use trust::UntrustedAddress;
pub use units::{SizeError, approximate_size, format_size, parse_duration, parse_size};

use dsm_core::layout::Layout;
use log::LevelFilter;
use serde::Serialize;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file that is read when neither `--config` nor `DSM_CONFIG` names one.
pub const DEFAULT_PATH: &str = "/etc/mcomp.cfg";

/// The longest file, in bytes, that is read: twice the length of a map with the most servers and
/// the longest texts.
pub const MAX_FILE_SIZE: u64 = 4 << 20;

/// A whole mcomp.cfg without errors.
#[derive(Debug, Clone)]
pub struct Config {
    /// The system's name, k, and the network map.
    pub layout: Layout,
    /// The `[[server]]` tables, in the order of [`Layout::addresses`].
    pub servers: Vec<ServerSettings>,
    /// Which addresses a server may listen on.
    pub security: Security,
    /// What is logged.
    pub log: LogSettings,
    /// The limits of a server.
    pub limits: Limits,
    /// How the client library behaves.
    pub client: ClientSettings,
    /// How snapshots are made and kept.
    pub snapshot: SnapshotSettings,
    /// What a server does after it has lost its memory.
    pub recovery: RecoverySettings,
    /// The file that it was read from.
    pub path: PathBuf,
    settings: Vec<Setting>,
    places: HashMap<String, Place>,
}

/// One `[[server]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerSettings {
    /// Where it listens; its text is the one in the layout.
    pub address: Endpoint,
    /// Where its snapshot agent listens: by default the same host and the next port. `None` when
    /// the map uses that already, or when there is no next port.
    pub snapshot: Option<Endpoint>,
    /// The public key by which clients and servers will know it, in base64. Not used yet.
    pub public_key: Option<String>,
}

/// `[security]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Security {
    /// Whether every machine on the network may read and write the memory, so that a server may
    /// listen on an address that other machines can reach.
    pub trusted_network: bool,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogSettings {
    /// The least severe level that is logged.
    pub level: LevelFilter,
    /// Which operations the operation log has a line for.
    pub operations: OperationLogMode,
    /// The folder of the operation log, an absolute path.
    pub directory: PathBuf,
    /// The most bytes of its file. The log has at most two files.
    pub max_size: u64,
}

/// Which operations the operation log has a line for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OperationLogMode {
    /// None: there is no operation log.
    Off,
    /// Those that change the memory.
    Writes,
    /// All.
    All,
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The most connections that one server accepts, 1 to 4096.
    pub connections: usize,
    /// The most connections that have a thread each, 1 to 32; as soon as there are more, all of
    /// them share a few threads.
    pub threads: usize,
    /// How long a new connection may take to send its hello.
    pub hello_timeout: Duration,
    /// How long a request may take from its first byte to its last, and a client to take its
    /// replies.
    pub request_timeout: Duration,
    /// How long a server that stops waits for the requests in flight.
    pub shutdown_timeout: Duration,
    /// The most bytes that the buffers of all connections take together.
    pub buffer_memory: u64,
}

/// `[client]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientSettings {
    /// How long one call of the library may take.
    pub timeout: Duration,
    /// Whether a client uses the shared memory of servers on its own host.
    pub local: LocalAccess,
}

/// `[snapshot]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotSettings {
    /// The folder of the snapshots, an absolute path.
    pub directory: PathBuf,
    /// Which snapshots are kept.
    pub keep: RetentionPolicy,
    /// How the pages of a snapshot are compressed.
    pub compression: Compression,
    /// The most bytes of shared memory on each server for the old contents of pages that are
    /// overwritten while a snapshot is read.
    pub copy_area: u64,
    /// How long an agent, or the master, may take for one message.
    pub timeout: Duration,
    /// The longest time that the memory is frozen for the cut.
    pub freeze_timeout: Duration,
}

/// `[recovery]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoverySettings {
    /// What dsmd does when it starts after its memory was lost.
    pub on_memory_loss: OnMemoryLoss,
}

/// What dsmd does when it starts after its memory was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnMemoryLoss {
    /// It begins with zeros.
    Empty,
    /// It refuses every read and change until an administrator restores a snapshot, or accepts that
    /// the memory is empty.
    Wait,
    /// Before it is ready, it asks the machine's snapshot agent to restore its part of the newest
    /// snapshot.
    Restore,
}

/// A key that mcomp.cfg may hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Its full name, table first: `limits.connections`.
    pub name: String,
    /// The value that is effective without it. `None` when the file must have the key, and when no
    /// fixed value replaces it.
    pub default: Option<String>,
    /// The allowed values.
    pub allowed: String,
}

impl Key {
    /// The table, empty for the top of the file, and the name in it.
    #[must_use]
    pub fn split(&self) -> (&str, &str) {
        self.name.split_once('.').unwrap_or(("", &self.name))
    }
}

/// An effective value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Setting {
    /// The key, with the name of its table and the server's index: `limits.connections`,
    /// `server.0.address`.
    pub key: String,
    /// The value as mcomp.cfg has it, without quotes.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Origin {
    /// The file lacks the key.
    Default,
    /// The file has the key in this line, counted from 1.
    Line(usize),
}

impl Origin {
    /// The line of the file that has the value, counted from 1; none when the file does not have
    /// it.
    #[must_use]
    pub fn line(self) -> Option<usize> {
        match self {
            Self::Default => None,
            Self::Line(line) => Some(line),
        }
    }
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When the file cannot be read; otherwise every error in it, up to [`MAX_DIAGNOSTICS`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read_error = |source| ConfigError::Read {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(read_error)?;
        // One byte more than is allowed tells a file that is too long from the longest one.
        let length = file
            .take(MAX_FILE_SIZE + 1)
            .read_to_end(&mut bytes)
            .map_err(read_error)?;
        if length as u64 > MAX_FILE_SIZE {
            return Err(ConfigError::TooLong {
                path: path.to_owned(),
                limit: MAX_FILE_SIZE,
            });
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, path),
            Err(error) => {
                let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                let place = diagnostic::Lines::new(&good).place(good.len());
                Err(ConfigError::single(
                    path,
                    place,
                    "this byte is not UTF-8: save the file as UTF-8".to_owned(),
                ))
            }
        }
    }

    /// Parses the text of a file. Errors name it `path`; the file is not read.
    ///
    /// # Errors
    /// Every error in the text, up to [`MAX_DIAGNOSTICS`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        parse::parse(text, path)
    }

    /// The file to read: `flag`, else the environment's `DSM_CONFIG`, else [`DEFAULT_PATH`].
    #[must_use]
    pub fn find(flag: Option<&Path>) -> PathBuf {
        choose_path(flag, std::env::var_os("DSM_CONFIG"))
    }

    /// Every effective value and where it comes from, in the order of the manual page.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        self.settings.clone()
    }

    /// Where the file has the value of `key`; its beginning when it lacks the key.
    #[must_use]
    pub fn place(&self, key: &str) -> Place {
        self.places.get(key).copied().unwrap_or(Place::START)
    }
}

fn choose_path(flag: Option<&Path>, environment: Option<OsString>) -> PathBuf {
    let environment = || {
        environment
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    flag.map(Path::to_owned)
        .or_else(environment)
        .unwrap_or_else(|| PathBuf::from(DEFAULT_PATH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_comes_before_the_environment_and_that_before_etc() {
        let (flag, environment) = (Some(Path::new("a")), Some(OsString::from("b")));
        assert_eq!(choose_path(flag, environment.clone()), Path::new("a"));
        assert_eq!(choose_path(None, environment), Path::new("b"));
        assert_eq!(
            choose_path(None, Some(OsString::new())),
            Path::new(DEFAULT_PATH)
        );
        assert_eq!(choose_path(None, None), Path::new(DEFAULT_PATH));
    }
}
