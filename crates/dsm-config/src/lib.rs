//! mcomp.cfg: parsed once, to types that hold only good values. `man/mcomp.cfg.5` specifies it.

mod address;
mod capacity;
mod identity;
mod mistake;
mod nearest;
mod parse;
mod reader;
mod section;
mod snapshots;
mod trust;
mod units;

pub use dsm_core::LocalAccess;

pub use address::{Address, AddressError, Host};
pub use capacity::check_capacity;
pub use identity::{IdentityError, own_index};
pub use mistake::{ConfigError, MAX_MISTAKES, Mistake, Place};
pub use parse::{MAX_CONNECTIONS, keys};
pub use snapshots::{Compression, Keep, Level};
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

/// Where the configuration is when nothing says otherwise.
pub const DEFAULT_PATH: &str = "/etc/mcomp.cfg";

/// The longest file, in bytes, that is read: a map of the most servers with the longest texts fits
/// twice.
pub const MAX_FILE: u64 = 4 << 20;

/// A whole mcomp.cfg, known to be sound.
#[derive(Debug, Clone)]
pub struct Config {
    /// The system's name, k, and the network map.
    pub layout: Layout,
    /// What the map says of each server besides its address text, in the order of
    /// [`Layout::addresses`].
    pub servers: Vec<ServerSettings>,
    /// Who may be listened to.
    pub security: Security,
    /// What is logged.
    pub log: LogSettings,
    /// The bounds of a server.
    pub limits: Limits,
    /// How the client library behaves.
    pub client: ClientSettings,
    /// How snapshots are made and kept.
    pub snapshot: SnapshotSettings,
    /// What a server does without its old memory.
    pub recovery: Recovery,
    /// The file that it came from.
    pub path: PathBuf,
    settings: Vec<Setting>,
    places: HashMap<String, Place>,
}

/// One `[[server]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerSettings {
    /// Where it listens; shows itself as the text in the layout.
    pub address: Address,
    /// Where its snapshot agent listens: by default the same host and the next port. None when that
    /// is taken by another of the map, or is no port.
    pub snapshot: Option<Address>,
    /// The public key by which others will know it: base64. Not used yet.
    pub public_key: Option<String>,
}

/// `[security]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Security {
    /// Whether everybody on the network may read and write the memory.
    pub trusted_network: bool,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogSettings {
    /// The least severe level that is logged.
    pub level: LevelFilter,
    /// Which operations the operation log holds.
    pub operations: OperationLogMode,
    /// Where the operation log is; absolute.
    pub directory: PathBuf,
    /// The most bytes of its file; there are at most two.
    pub max_size: u64,
}

/// Which operations the operation log holds.
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
    /// How long a new connection may take to say hello.
    pub hello_timeout: Duration,
    /// How long a request may take from its first byte to its last, and a client to take its
    /// replies.
    pub request_timeout: Duration,
    /// How long a server that stops waits for the requests under way.
    pub shutdown_timeout: Duration,
    /// The most bytes that all connections' buffers take together.
    pub buffer_memory: u64,
}

/// `[client]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientSettings {
    /// The deadline of one call of the library.
    pub timeout: Duration,
    /// Whether servers on the client's host are reached through their shared memory.
    pub local: LocalAccess,
}

/// `[snapshot]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotSettings {
    /// Where snapshots are written; absolute.
    pub directory: PathBuf,
    /// Which of them are kept.
    pub keep: Keep,
    /// How their pages are compressed.
    pub compression: Compression,
    /// The most bytes of pages that writers save aside on each server while a snapshot is read.
    pub copy_area: u64,
    /// How long an agent, or a master, may take for one message.
    pub timeout: Duration,
    /// The longest time that writers stand still for the cut.
    pub freeze_timeout: Duration,
}

/// `[recovery]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// What dsmd does when it starts without its old memory.
    pub on_memory_loss: OnMemoryLoss,
}

/// What dsmd does when it starts without its old memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnMemoryLoss {
    /// It begins with zeros.
    Empty,
    /// It refuses every read and change until somebody restores a snapshot, or accepts that the
    /// memory is empty.
    Wait,
    /// It lets the newest snapshot be restored before it is ready.
    Restore,
}

/// A key that mcomp.cfg may hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Its name, with that of its table before a dot: `limits.connections`.
    pub name: String,
    /// What holds without it; none when it must be given, or when nothing holds.
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

/// A value that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Setting {
    /// The key, with the name of its table and the server's index: `limits.connections`,
    /// `server.0.address`.
    pub key: String,
    /// The value, as mcomp.cfg would have it, without quotes.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Origin {
    /// The file does not have it.
    Default,
    /// The file has it in this line, counted from 1.
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
    /// When it cannot be read, and every mistake in it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read_error = |source| ConfigError::Read {
            path: path.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(read_error)?;
        // One byte more than is allowed, to see that there is more.
        let length = file
            .take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(read_error)?;
        if length as u64 > MAX_FILE {
            return Err(ConfigError::TooLong {
                path: path.to_owned(),
                limit: MAX_FILE,
            });
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) => Self::parse(text, path),
            Err(error) => {
                let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                let place = mistake::Lines::new(&good).place(good.len());
                Err(ConfigError::single(
                    path,
                    place,
                    "this byte is not UTF-8, which TOML must be".to_owned(),
                ))
            }
        }
    }

    /// Parses the text of a file; `path` is only what errors call it.
    ///
    /// # Errors
    /// Every mistake in the text.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        parse::parse(text, path)
    }

    /// The file to read: `flag`, else the environment's `DSM_CONFIG`, else [`DEFAULT_PATH`].
    #[must_use]
    pub fn find(flag: Option<&Path>) -> PathBuf {
        choose_path(flag, std::env::var_os("DSM_CONFIG"))
    }

    /// Every effective value and where it came from, in the order of the manual page.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        self.settings.clone()
    }

    /// Where the file has `key`, and its beginning when it has not.
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
