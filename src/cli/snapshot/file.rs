//! The snapshots that a command line names, and what of them several commands show.

use crate::cli::arguments::Global;
use crate::cli::failure::Failure;
use crate::cli::session;
use dsm_snapshot::{Header, ServerInfo, SnapshotFile};
use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the file is: a path, or a name that is looked for in the snapshot directory when it is not
/// here.
pub(super) fn find(file: &Path, global: &Global) -> Result<PathBuf, Failure> {
    let is_name = file.parent() == Some(Path::new("")) && file.file_name().is_some();
    if !is_name || !is_absent(file) {
        return Ok(file.to_owned());
    }
    let absent = |elsewhere| Failure::NoSnapshot {
        name: file.display().to_string(),
        elsewhere,
    };
    match session::load(global) {
        Ok(config) => {
            let directory = &config.snapshot.directory;
            let found = directory.join(file);
            let nor = || {
                format!(
                    "nor in {}: dsmctl snapshot list shows what there is",
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
            "and where snapshots are is not known: {error}"
        ))),
    }
}

/// Finds the file and opens it.
pub(super) fn open(file: &Path, global: &Global) -> Result<SnapshotFile, Failure> {
    Ok(SnapshotFile::open(&find(file, global)?)?)
}

/// Whether there is no such file. One that must not be looked at is there: opening it says why not.
fn is_absent(path: &Path) -> bool {
    std::fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// The instant of the cut.
pub(super) fn cut_time(header: &Header) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(header.cut_time())
}

/// The snapshot's id, as text.
pub(super) fn id(header: &Header) -> String {
    format!("{:032x}", u128::from_be_bytes(header.id()))
}

/// A server's incarnation, as `dsmctl status` shows it; none when the server is missing.
pub(super) fn incarnation(server: &ServerInfo) -> Option<String> {
    server
        .incarnation
        .map(|incarnation| format!("{incarnation:016x}"))
}

/// How many servers are in the snapshot.
pub(super) fn present(header: &Header) -> usize {
    header
        .servers()
        .iter()
        .filter(|server| server.incarnation.is_some())
        .count()
}

/// The most servers whose incarnations stand one by one in a column.
const ONE_BY_ONE: usize = 4;

/// A text for the incarnations of all servers, short enough for a column: another text, and some
/// memory began anew.
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
