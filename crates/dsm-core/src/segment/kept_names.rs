//! Second names of a segment's objects in /dev/shm. Any program of the same user can remove the
//! first names while a server runs; the server restores them.
//!
//! An object without a name lives as long as a process has it open, but no other process can open
//! it, and the kernel gives it no new name: `linkat(2)` refuses a file whose last link was removed.
//! So while the server runs it keeps a second name of each object that holds data, and restores a
//! removed first name from it. The second name starts with the first and ends in [`KEPT`]: the
//! command of the manual for discarding memory, which removes `NAME.*`, removes both.

use super::Segment;
use super::geometry::LOCKS;
use super::names::{copy_area, path, semaphore_path};
use nix::libc::{dev_t, ino_t};
use nix::sys::stat::{fstat, lstat};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// The suffix of second names.
const KEPT: &str = ".kept";

/// The state of the names by which other processes open a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameCheck {
    /// All names are there.
    Intact,
    /// A name was missing and was restored.
    Restored,
    /// The memory has its name, but its copy area or a semaphore has none: no other process can
    /// open the segment until its server restarts.
    PartsRemoved,
    /// The memory has no name any more, or another object has its name: the memory ends with the
    /// last process that has it open.
    Removed,
}

/// The state of one name.
#[derive(PartialEq, Eq)]
enum NameState {
    Present,
    Restored,
    Missing,
}

impl Segment {
    /// Gives each object that holds data a second name, for [`Segment::check_names`]. For the
    /// server of the segment. An existing second name is kept, or replaced if it belongs to another
    /// object.
    ///
    /// # Errors
    /// When a link cannot be created. Nothing else depends on the second names.
    pub fn keep_names(&self) -> io::Result<()> {
        for (name, object) in self.objects() {
            let kept = kept(&name);
            match std::fs::hard_link(path(&name), &kept) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if identity_of(&kept)? != object {
                        std::fs::remove_file(&kept)?;
                        std::fs::hard_link(path(&name), &kept)?;
                    }
                }
                linked => linked?,
            }
        }
        Ok(())
    }

    /// Checks that every object still has its name, and restores missing names where possible.
    /// Makes some dozens of system calls.
    #[must_use]
    pub fn check_names(&self) -> NameCheck {
        let mut restored = false;
        let mut parts_removed = false;
        for (number, (name, object)) in self.objects().into_iter().enumerate() {
            match check_name(&name, object) {
                NameState::Present => {}
                NameState::Restored => restored = true,
                NameState::Missing if number == 0 => return NameCheck::Removed,
                NameState::Missing => parts_removed = true,
            }
        }
        let has_semaphore = |lock| lstat(&semaphore_path(&self.attachment.name, lock)).is_ok();
        match (restored, parts_removed || !(0..LOCKS).all(has_semaphore)) {
            (_, true) => NameCheck::PartsRemoved,
            (true, false) => NameCheck::Restored,
            (false, false) => NameCheck::Intact,
        }
    }

    /// Removes the second names, so that removing the first ones frees the memory while no server
    /// runs.
    pub fn release_names(&self) {
        release_names(&self.attachment.name);
    }

    /// Each object that holds data, the memory first, with its device and inode numbers.
    fn objects(&self) -> [(String, Option<(dev_t, ino_t)>); 2] {
        let name = &self.attachment.name;
        [
            (name.clone(), identity(&self.attachment.file)),
            (copy_area(name), identity(&self.attachment.copy_area)),
        ]
    }
}

/// Removes the second names of the objects of segment `name`. A missing one is no error.
pub(super) fn release_names(name: &str) {
    for name in [name, &copy_area(name)] {
        let _ = std::fs::remove_file(kept(name));
    }
}

fn check_name(name: &str, object: Option<(dev_t, ino_t)>) -> NameState {
    match identity_of(&path(name)) {
        Ok(found) if found == object => NameState::Present,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let kept = kept(name);
            let is_kept = identity_of(&kept).is_ok_and(|found| found == object);
            if is_kept && std::fs::hard_link(kept, path(name)).is_ok() {
                NameState::Restored
            } else {
                NameState::Missing
            }
        }
        // Another object has the name, or the directory cannot be read: nothing can be restored.
        _ => NameState::Missing,
    }
}

fn kept(name: &str) -> PathBuf {
    path(&kept_name(name))
}

/// The second name of an object, with its slash.
pub(super) fn kept_name(name: &str) -> String {
    format!("{name}{KEPT}")
}

/// Whether the open object has this name.
pub(super) fn is_named(file: impl AsFd, name: &str) -> bool {
    identity_of(&path(name)).is_ok_and(|found| found.is_some() && found == identity(file))
}

fn identity(file: impl AsFd) -> Option<(dev_t, ino_t)> {
    fstat(file)
        .ok()
        .map(|status| (status.st_dev, status.st_ino))
}

fn identity_of(path: &Path) -> io::Result<Option<(dev_t, ino_t)>> {
    let status = lstat(path)?;
    Ok(Some((status.st_dev, status.st_ino)))
}
