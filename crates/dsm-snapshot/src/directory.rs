//! A directory of snapshots: what is in it, what goes.

use super::name::{FileName, PARTIAL_SUFFIX};
use super::partial::{Stale, remove_stale};
use super::reader::SnapshotFile;
use super::retention::{Candidate, Decision, Standing, decide};
use super::{Header, ReadError, ServerInfo};
use dsm_config::Keep;
use std::io::{Error, ErrorKind};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

/// The most files that a message names.
const NAMED: usize = 5;

/// A file of the directory whose name is that of a snapshot.
#[derive(Debug)]
pub struct Listed {
    /// Its name in the directory.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What it is, as far as header, footer and index say.
    pub standing: Standing,
    /// Its header, if that can be read.
    pub header: Option<Header>,
    /// What is wrong with it, if anything is.
    pub problem: Option<ReadError>,
    /// Bytes of the file.
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

    /// What kind of error the system call met.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.source.kind()
    }
}

/// The snapshots in a directory, the oldest first. Those of other systems than `system` are
/// foreign.
///
/// # Errors
/// When the directory cannot be read. A file that cannot is listed with its problem.
pub fn list(directory: &Path, system: &str) -> Result<Vec<Listed>, DirectoryError> {
    list_where(directory, |header| header.layout().name() == system)
}

/// The snapshots in a directory, of whatever system, the oldest first.
///
/// # Errors
/// As [`list`].
pub fn list_all(directory: &Path) -> Result<Vec<Listed>, DirectoryError> {
    list_where(directory, |_| true)
}

fn list_where(
    directory: &Path,
    is_ours: impl Fn(&Header) -> bool,
) -> Result<Vec<Listed>, DirectoryError> {
    let mut named: Vec<(FileName, String)> = names(directory)?
        .into_iter()
        .filter_map(|name| Some((FileName::parse(&name)?, name)))
        .collect();
    named.sort();
    let mut listed: Vec<Listed> = named
        .into_iter()
        .map(|(_, name)| look_at(directory, name, &is_ours))
        .collect();
    // Names are to the second, and one that was deleted is given again. Without a header there is
    // only the name.
    let cut_time = |listed: &Listed| listed.header.as_ref().map(Header::cut_time);
    for run in listed.chunk_by_mut(|one, next| cut_time(one).is_some() && cut_time(next).is_some())
    {
        run.sort_by_key(cut_time);
    }
    Ok(listed)
}

fn look_at(directory: &Path, name: String, is_ours: impl Fn(&Header) -> bool) -> Listed {
    let path = directory.join(&name);
    let metadata = std::fs::symlink_metadata(&path);
    let bytes = metadata.as_ref().map_or(0, std::fs::Metadata::len);
    // A link is not what we wrote, wherever it leads.
    let link = metadata.is_ok_and(|metadata| metadata.is_symlink());
    let (header, problem) = match SnapshotFile::open(&path) {
        Ok(file) => (Some(file.header().clone()), None),
        Err(problem) => (SnapshotFile::read_header(&path).ok(), Some(problem)),
    };
    let ours = header.as_ref().filter(|header| !link && is_ours(header));
    let standing = match (ours, &problem) {
        // What cannot be read just now may well be good.
        (None, _) | (Some(_), Some(ReadError::System { .. })) => Standing::Foreign,
        (Some(header), None) if header.is_partial() => Standing::Partial,
        (Some(_), None) => Standing::Good,
        (Some(_), Some(_)) => Standing::Bad,
    };
    Listed {
        name,
        path,
        standing,
        header,
        problem,
        bytes,
    }
}

/// Deletes what need not be kept of the snapshots of `system`, and returns the names of what was
/// deleted. `newest` was just written and stays. Files from after it, made when a clock was ahead,
/// stay too, and push nothing out.
///
/// # Errors
/// When the directory cannot be read, and the first file that could not be deleted; the others are.
pub fn apply_retention(
    directory: &Path,
    system: &str,
    keep: Keep,
    newest: u64,
) -> Result<Vec<String>, DirectoryError> {
    let candidates: Vec<Candidate> = list(directory, system)?
        .into_iter()
        .filter_map(|listed| {
            let header = listed.header.as_ref()?;
            let incarnation = |server: &ServerInfo| server.incarnation.map_or(0, NonZeroU64::get);
            let incarnations = header.servers().iter().map(incarnation).collect();
            Some(Candidate {
                time: header.cut_time(),
                name: listed.name,
                standing: listed.standing,
                incarnations,
            })
        })
        .filter(|candidate| candidate.time <= newest)
        .collect();
    let decision = decide(&candidates, keep);
    tell_spared(&decision, keep);
    let (mut deleted, mut failed) = (Vec::new(), None);
    for name in decision.deleted {
        let path = directory.join(name);
        match std::fs::remove_file(&path) {
            Ok(()) => deleted.push(name.to_owned()),
            // Somebody else was faster.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                failed = failed.or(Some(DirectoryError::new("cannot delete", &path)(error)))
            }
        }
    }
    failed.map_or(Ok(deleted), Err)
}

/// Says which files would have gone, so that an administrator can see to them before their time is
/// over.
fn tell_spared(decision: &Decision<'_>, keep: Keep) {
    let spared = &decision.spared;
    if spared.is_empty() {
        return;
    }
    let more = if spared.len() > NAMED {
        format!(" and {} more", spared.len() - NAMED)
    } else {
        String::new()
    };
    log::warn!(
        "the memory of a server was lost or replaced since {}{more} showed it: kept beyond snapshot.keep until {} days after \
         its cut, as snapshot.keep_lost says. Restore it, copy it elsewhere, or delete it if it is not needed",
        spared
            .iter()
            .take(NAMED)
            .copied()
            .collect::<Vec<_>>()
            .join(", "),
        keep.lost
    );
}

/// Removes what dead processes left of snapshots that they were writing, under whatever name, and
/// returns the names. What a living one writes stays, and so does everything that does not look
/// like ours.
///
/// # Errors
/// When the directory cannot be read. A file that cannot be deleted, for it is another user's, is
/// left with a warning.
pub fn remove_stale_partials(directory: &Path) -> Result<Vec<String>, DirectoryError> {
    let mut removed = Vec::new();
    for name in names(directory)? {
        // Hidden ones are exports that are being written, and begin with whatever the memory begins
        // with.
        let Some(whole) = name
            .strip_suffix(PARTIAL_SUFFIX)
            .filter(|name| !name.starts_with('.'))
        else {
            continue;
        };
        // Other programs call files so too, and an empty one tells nothing of itself.
        let is_ours = FileName::parse(whole).is_some();
        let path = directory.join(&name);
        match remove_stale(&path, is_ours) {
            Ok(Stale::Removed) => removed.push(name),
            // Another user's, which may be anything.
            Err(error) if !is_ours && error.kind() == ErrorKind::PermissionDenied => {}
            Ok(Stale::Alive | Stale::Foreign) => {}
            Err(error) => log::warn!(
                "cannot remove {}, which may be left of a snapshot: {error}",
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
        // A name that is not text is not one of ours.
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}
