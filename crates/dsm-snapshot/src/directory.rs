//! A directory of snapshots: lists it, and deletes the files that need not be kept. Only sound or
//! damaged snapshots of this system are ever deleted, and partial files whose writer is dead.

use super::name::{FileName, PARTIAL_SUFFIX};
use super::partial::{StaleOutcome, remove_stale};
use super::reader::SnapshotFile;
use super::retention::{Decision, RetentionCandidate, Standing, decide};
use super::{Header, ReadError, ServerInfo};
use dsm_config::RetentionPolicy;
use std::io::{Error, ErrorKind};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

/// The most file names in a message.
const MAX_NAMED: usize = 5;

/// A file of the directory whose name has the form of a snapshot's.
#[derive(Debug)]
pub struct ListedSnapshot {
    /// Its name in the directory.
    pub name: String,
    /// Its path.
    pub path: PathBuf,
    /// What it is, judged by its header, footer and index.
    pub standing: Standing,
    /// Its header, if it can be read.
    pub header: Option<Header>,
    /// What is wrong with it, if anything.
    pub problem: Option<ReadError>,
    /// The length of the file in bytes.
    pub bytes: u64,
}

/// The directory cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}: {source}", .path.display())]
pub struct DirectoryError {
    action: &'static str,
    path: PathBuf,
    source: Error,
}

impl DirectoryError {
    fn new(action: &'static str, path: &Path) -> impl FnOnce(Error) -> Self {
        move |source| Self {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// The kind of error that the system call returned.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.source.kind()
    }
}

/// Lists the snapshots in a directory, the oldest first. Snapshots of other systems than `system`
/// are foreign.
///
/// # Errors
/// When the directory cannot be read. A file that cannot be read is listed with its problem.
pub fn list(directory: &Path, system: &str) -> Result<Vec<ListedSnapshot>, DirectoryError> {
    list_where(directory, |header| header.layout().name() == system)
}

/// Lists the snapshots of all systems in a directory, the oldest first.
///
/// # Errors
/// As [`list`].
pub fn list_all(directory: &Path) -> Result<Vec<ListedSnapshot>, DirectoryError> {
    list_where(directory, |_| true)
}

fn list_where(
    directory: &Path,
    is_ours: impl Fn(&Header) -> bool,
) -> Result<Vec<ListedSnapshot>, DirectoryError> {
    let mut named: Vec<(FileName, String)> = names(directory)?
        .into_iter()
        .filter_map(|name| Some((FileName::parse(&name)?, name)))
        .collect();
    named.sort();
    let mut listed: Vec<ListedSnapshot> = named
        .into_iter()
        .map(|(_, name)| inspect(directory, name, &is_ours))
        .collect();
    // A name gives only the second, and the name of a deleted file is reused. A file without a
    // readable header is sorted by its name only.
    let cut_time = |listed: &ListedSnapshot| listed.header.as_ref().map(Header::cut_time);
    for run in listed.chunk_by_mut(|one, next| cut_time(one).is_some() && cut_time(next).is_some())
    {
        run.sort_by_key(cut_time);
    }
    Ok(listed)
}

fn inspect(directory: &Path, name: String, is_ours: impl Fn(&Header) -> bool) -> ListedSnapshot {
    let path = directory.join(&name);
    let metadata = std::fs::symlink_metadata(&path);
    let bytes = metadata.as_ref().map_or(0, std::fs::Metadata::len);
    // The writer makes no symbolic links, so a link is foreign.
    let link = metadata.is_ok_and(|metadata| metadata.is_symlink());
    let (header, problem) = match SnapshotFile::open(&path) {
        Ok(file) => (Some(file.header().clone()), None),
        Err(problem) => (SnapshotFile::read_header(&path).ok(), Some(problem)),
    };
    let ours = header.as_ref().filter(|header| !link && is_ours(header));
    let standing = match (ours, &problem) {
        // A file that cannot be read now may be good.
        (None, _) | (Some(_), Some(ReadError::System { .. })) => Standing::Foreign,
        (Some(header), None) if header.is_partial() => Standing::Partial,
        (Some(_), None) => Standing::Good,
        (Some(_), Some(_)) => Standing::Bad,
    };
    ListedSnapshot {
        name,
        path,
        standing,
        header,
        problem,
        bytes,
    }
}

/// Deletes the snapshots of `system` that need not be kept, and returns their names. `newest` is
/// the cut time of the snapshot that was just written: it stays. Files with a later time, written
/// when a clock was ahead, stay too, and do not count.
///
/// # Errors
/// When the directory cannot be read; and the first file that cannot be deleted, after the others
/// were deleted.
pub fn apply_retention(
    directory: &Path,
    system: &str,
    keep: RetentionPolicy,
    newest: u64,
) -> Result<Vec<String>, DirectoryError> {
    let candidates: Vec<RetentionCandidate> = list(directory, system)?
        .into_iter()
        .filter_map(|listed| {
            let header = listed.header.as_ref()?;
            let incarnation = |server: &ServerInfo| server.incarnation.map_or(0, NonZeroU64::get);
            let incarnations = header.servers().iter().map(incarnation).collect();
            Some(RetentionCandidate {
                time: header.cut_time(),
                name: listed.name,
                standing: listed.standing,
                incarnations,
            })
        })
        .filter(|candidate| candidate.time <= newest)
        .collect();
    let decision = decide(&candidates, keep);
    log_spared(&decision, keep);
    let (mut deleted, mut failed) = (Vec::new(), None);
    for name in decision.deleted {
        let path = directory.join(name);
        match std::fs::remove_file(&path) {
            Ok(()) => deleted.push(name.to_owned()),
            // Another process deleted it first.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                failed = failed.or(Some(DirectoryError::new("cannot delete", &path)(error)));
            }
        }
    }
    failed.map_or(Ok(deleted), Err)
}

/// Logs which files `snapshot.keep` alone would not keep, so that an administrator can act before
/// they are deleted.
fn log_spared(decision: &Decision<'_>, keep: RetentionPolicy) {
    let spared = &decision.spared;
    if spared.is_empty() {
        return;
    }
    let more = if spared.len() > MAX_NAMED {
        format!(" and {} more", spared.len() - MAX_NAMED)
    } else {
        String::new()
    };
    log::warn!(
        "{}{more} showed memory of a server that was lost or replaced since: kept beyond \
         snapshot.keep until {} days after the cut, as snapshot.keep_lost says. Restore it, copy \
         it elsewhere, or delete it if it is not needed",
        spared
            .iter()
            .take(MAX_NAMED)
            .copied()
            .collect::<Vec<_>>()
            .join(", "),
        keep.lost
    );
}

/// Removes the partial files of dead processes, whatever their names, and returns the names. The
/// partial file of a running process stays, and so does every file that is not a partial snapshot.
///
/// # Errors
/// When the directory cannot be read. A file of another user that cannot be deleted stays, with a
/// warning.
pub fn remove_stale_partials(directory: &Path) -> Result<Vec<String>, DirectoryError> {
    let mut removed = Vec::new();
    for name in names(directory)? {
        // A hidden partial file is an unfinished export, whose first bytes are those of the memory.
        let Some(whole) = name
            .strip_suffix(PARTIAL_SUFFIX)
            .filter(|name| !name.starts_with('.'))
        else {
            continue;
        };
        // Other programs use this suffix, too, and an empty file has no magic bytes.
        let is_ours = FileName::parse(whole).is_some();
        let path = directory.join(&name);
        match remove_stale(&path, is_ours) {
            Ok(StaleOutcome::Removed) => removed.push(name),
            // A file of another user that may not be a snapshot.
            Err(error) if !is_ours && error.kind() == ErrorKind::PermissionDenied => {}
            Ok(StaleOutcome::Alive | StaleOutcome::Foreign) => {}
            Err(error) => log::warn!(
                "cannot remove {}, which may be the remains of a snapshot: {error}",
                path.display()
            ),
        }
    }
    Ok(removed)
}

fn names(directory: &Path) -> Result<Vec<String>, DirectoryError> {
    let entries =
        std::fs::read_dir(directory).map_err(DirectoryError::new("cannot read", directory))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(DirectoryError::new("cannot read", directory))?;
        // The writer gives no name that is not UTF-8.
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}
