//! Finds and opens the snapshots that a command line names, and formats the parts of their headers
//! that several commands show.

use crate::cli::arguments::GlobalOptions;
use crate::cli::context;
use crate::cli::failure::CliFailure;
use dsm_snapshot::{Header, ServerInfo, SnapshotFile};
use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Finds a snapshot: `file` is a path, or a name that is searched first in the current folder and
/// then in the snapshot directory.
pub(super) fn find(file: &Path, global: &GlobalOptions) -> Result<PathBuf, CliFailure> {
    let is_name = file.parent() == Some(Path::new("")) && file.file_name().is_some();
    if !is_name || !is_absent(file) {
        return Ok(file.to_owned());
    }
    let absent = |elsewhere| CliFailure::NoSnapshot {
        name: file.display().to_string(),
        elsewhere,
    };
    match context::load(global) {
        Ok(config) => {
            let directory = &config.snapshot.directory;
            let found = directory.join(file);
            let nor = || {
                format!(
                    "nor in {}: run dsmctl snapshot list to see the snapshots there",
                    directory.display()
                )
            };
            if is_absent(&found) {
                Err(absent(nor()))
            } else {
                Ok(found)
            }
        }
        Err(error) => Err(absent(format!(
            "and the snapshot directory is unknown: {error}"
        ))),
    }
}

/// Finds a snapshot and opens it.
pub(super) fn open(file: &Path, global: &GlobalOptions) -> Result<SnapshotFile, CliFailure> {
    Ok(SnapshotFile::open(&find(file, global)?)?)
}

/// Whether no file has this path. After any other error the file counts as present, so that opening
/// it reports the error.
fn is_absent(path: &Path) -> bool {
    std::fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// The time of the cut.
pub(super) fn cut_time(header: &Header) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(header.cut_time())
}

/// The snapshot's id, as text.
pub(super) fn id(header: &Header) -> String {
    format!("{:032x}", u128::from_be_bytes(header.id()))
}

/// The incarnation of a server, in the format of `dsmctl status`; `None` if the server is missing.
pub(super) fn incarnation(server: &ServerInfo) -> Option<String> {
    server
        .incarnation
        .map(|incarnation| format!("{incarnation:016x}"))
}

/// The number of servers that the snapshot contains.
pub(super) fn present(header: &Header) -> usize {
    header
        .servers()
        .iter()
        .filter(|server| server.incarnation.is_some())
        .count()
}

/// The most servers whose incarnations a column shows one by one.
const ONE_BY_ONE: usize = 4;

/// A short text for the incarnations of all servers. Two snapshots with different texts have a
/// server whose memory started anew between them.
pub(super) fn incarnations(header: &Header) -> String {
    let servers = header.servers();
    if let [only] = servers {
        return incarnation(only).unwrap_or_default();
    }
    if servers.len() <= ONE_BY_ONE {
        let beginning =
            |server| incarnation(server).map_or("-".to_owned(), |text| text[..4].to_owned());
        return servers.iter().map(beginning).collect::<Vec<_>>().join(" ");
    }
    let mut hasher = blake3::Hasher::new();
    for server in servers {
        hasher.update(&server.incarnation.map_or(0, NonZeroU64::get).to_le_bytes());
    }
    format!("#{}", &hasher.finalize().to_hex()[..15])
}
