//! The names of a segment's objects in /dev/shm, which any program of the same user can remove
//! while a server runs.
//!
//! An object without a name lives as long as a process has it open, but no other process can open
//! it, and the kernel gives it no new name: `linkat(2)` refuses a file whose last link is gone. So
//! the server keeps a second name of the objects that hold data while it runs, and gives a removed
//! first name back from it. The second name ends in [`KEPT`] and begins as the first: removing
//! `NAME.*`, as the manual says for memory that shall go, removes both.

use super::Segment;
use super::geometry::LOCKS;
use super::names::{copy_area, path, semaphore_path};
use nix::libc::{dev_t, ino_t};
use nix::sys::stat::{fstat, lstat};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// What the second name of an object ends in.
const KEPT: &str = ".kept";

/// What was found of the names that other processes open a segment by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// All are there.
    Whole,
    /// A name was gone and is there again.
    GivenBack,
    /// The memory has its name, but its copy area or a semaphore has none: no other process can
    /// open the segment until its server starts again.
    PartsRemoved,
    /// The memory has no name any more, or its name is that of another object: it ends with its
    /// last process.
    Removed,
}

/// How one name was found.
#[derive(PartialEq, Eq)]
enum Name {
    There,
    GivenBack,
    Gone,
}

impl Segment {
    /// Gives each object that holds data a second name, for [`Segment::look_after_names`]; for the
    /// server of the segment. One that is there already is taken over, or replaced if it is that of
    /// another object.
    ///
    /// # Errors
    /// When the operating system does not allow it. Nothing else depends on the second names.
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

    /// Looks whether every object still has its name, and gives back the names that can be. Some
    /// dozens of system calls.
    #[must_use]
    pub fn look_after_names(&self) -> Names {
        let mut given_back = false;
        let mut parts_removed = false;
        for (number, (name, object)) in self.objects().into_iter().enumerate() {
            match look_after(&name, object) {
                Name::There => {}
                Name::GivenBack => given_back = true,
                Name::Gone if number == 0 => return Names::Removed,
                Name::Gone => parts_removed = true,
            }
        }
        let has_semaphore = |lock| lstat(&semaphore_path(&self.shared.name, lock)).is_ok();
        match (given_back, parts_removed || !(0..LOCKS).all(has_semaphore)) {
            (_, true) => Names::PartsRemoved,
            (true, false) => Names::GivenBack,
            (false, false) => Names::Whole,
        }
    }

    /// Removes the second names, so that removing the first ones gives the memory back while no
    /// server runs.
    pub fn release_names(&self) {
        release_names(&self.shared.name);
    }

    /// Each object that holds data, the memory first, with what tells it from others.
    fn objects(&self) -> [(String, Option<(dev_t, ino_t)>); 2] {
        let name = &self.shared.name;
        [
            (name.clone(), identity(&self.shared.file)),
            (copy_area(name), identity(&self.shared.copy_area)),
        ]
    }
}

/// Removes the second names of the objects of segment `name`. One that is not there is as good as
/// removed.
pub(super) fn release_names(name: &str) {
    for name in [name, &copy_area(name)] {
        let _ = std::fs::remove_file(kept(name));
    }
}

fn look_after(name: &str, object: Option<(dev_t, ino_t)>) -> Name {
    match identity_of(&path(name)) {
        Ok(found) if found == object => Name::There,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let kept = kept(name);
            let is_kept = identity_of(&kept).is_ok_and(|found| found == object);
            if is_kept && std::fs::hard_link(kept, path(name)).is_ok() {
                Name::GivenBack
            } else {
                Name::Gone
            }
        }
        // Another object has taken the name, or the folder cannot be looked at: nothing here to be
        // put right.
        _ => Name::Gone,
    }
}

fn kept(name: &str) -> PathBuf {
    path(&kept_name(name))
}

/// The second name of an object, with its slash.
pub(super) fn kept_name(name: &str) -> String {
    format!("{name}{KEPT}")
}

/// Whether the object that is open has this name.
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
