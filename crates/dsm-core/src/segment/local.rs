//! Local clients: participants that use the memory through shared memory, without the network, as
//! long as the segment's server permits it.

use super::intent::LocalCounter;
use super::open::attach;
use super::participant::{Role, SERVER, byte};
use super::superblock::{Field, permission};
use super::{Segment, SegmentError, WORKERS, names};
use crate::layout::{Fingerprint, Layout};
use crate::protocol::LocalTraffic;
use crate::sys::{ofd, own_file};
use nix::libc::mode_t;
use nix::sys::stat::fstat;
use nix::sys::uio::pread;
use nix::unistd::{User, geteuid};
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

/// The user that dsmd runs as when it was installed from the package. Only root can create users.
const SERVICE_USER: &str = "dsm";

/// The bits of a mode that apply to users other than the owner and its group.
const OTHERS: mode_t = 0o007;

impl Segment {
    /// Opens the segment of server `index` of `layout` as a local client, and returns its
    /// incarnation too.
    ///
    /// # Errors
    /// [`SegmentError::NotOurs`] when its owner is not trusted with the memory;
    /// [`SegmentError::NotReady`] when no server serves it, or its server does not admit clients of
    /// this layout, or its memory waits for a restore; see [`SegmentError`] for the others.
    pub fn attach_as_client(layout: &Layout, index: u32) -> Result<(Self, u64), SegmentError> {
        let fingerprint = layout.segment_fingerprint(index);
        let permission = permission(fingerprint);
        let segment = attach(layout, index, Role::Client { permission })?;
        let superblock = &segment.attachment.tables.superblock;
        // The incarnation is read first. If a restore replaces it after that, the checks below find
        // the memory closed, or later operations find another incarnation. If the segment is
        // discarded, the permission is gone.
        let incarnation = segment.incarnation();
        let admits = superblock.word(Field::LocalAccess).load(Ordering::Acquire) == permission
            && segment.is_served();
        if admits
            && superblock.has_fingerprint(fingerprint)
            && segment.access_error().is_none()
            && segment.is_ready()
        {
            Ok((segment, incarnation))
        } else {
            Err(SegmentError::NotReady {
                name: segment.name().to_owned(),
            })
        }
    }

    /// Permits local clients of the layout with this fingerprint to use the segment. Their
    /// operations are in no operation log.
    pub fn enable_local_access(&self, fingerprint: Fingerprint) {
        self.attachment
            .tables
            .superblock
            .word(Field::LocalAccess)
            .store(permission(fingerprint), Ordering::SeqCst);
    }

    /// Withdraws the permission of all local clients: they begin no further operation. Operations
    /// that have begun are finished.
    pub fn disable_local_access(&self) {
        self.attachment
            .tables
            .superblock
            .word(Field::LocalAccess)
            .store(0, Ordering::SeqCst);
    }

    /// Whether the object has lost its name, so that a process that opens the segment now finds
    /// another one or none. Makes a system call.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        fstat(&self.attachment.file).is_ok_and(|status| status.st_nlink == 0)
    }

    /// Whether a live server has it open. Makes a system call.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.attachment.is_alive(SERVER)
    }

    /// What local clients have done since the segment was made.
    #[must_use]
    pub fn local_traffic(&self) -> LocalTraffic {
        let sum = |counter| {
            let count = |worker| {
                self.attachment
                    .tables
                    .intents
                    .counter(worker, counter)
                    .load(Ordering::Relaxed)
            };
            (0..WORKERS).map(count).fold(0, u64::wrapping_add)
        };
        LocalTraffic {
            reads: sum(LocalCounter::Reads),
            writes: sum(LocalCounter::Writes),
            fills: sum(LocalCounter::Fills),
            copies: sum(LocalCounter::Copies),
            atomics: sum(LocalCounter::Atomics),
            bytes_read: sum(LocalCounter::BytesRead),
            bytes_written: sum(LocalCounter::BytesWritten),
        }
    }
}

/// Makes sure that [`generation`] changes in the children of this process from now on.
///
/// # Errors
/// ENOMEM when the handlers of `pthread_atfork(3)` cannot be installed.
pub fn watch_forks() -> nix::Result<()> {
    own_file::watch_forks()
}

/// A number that changes in a child made by `fork(2)`, once [`watch_forks`] was called or a segment
/// was opened: what was made under another number belongs to the parent and must not be used.
#[must_use]
#[inline]
pub fn generation() -> u64 {
    own_file::generation()
}

/// Checks the owner of an object before it is mapped and before the others see a new participant:
/// any user may create files in /dev/shm, under any name, and could have prepared this one to read
/// what this process writes, or to shorten it, which would be a SIGBUS here.
///
/// # Errors
/// [`SegmentError::NotOurs`].
pub(super) fn check_owner(
    file: BorrowedFd<'_>,
    name: &str,
    role: Role,
) -> Result<(), SegmentError> {
    let status = fstat(file).map_err(SegmentError::system("read the status of", name))?;
    let is_trusted = is_trusted(status.st_uid, geteuid().as_raw(), service_user);
    let is_enough = match role {
        Role::Client { .. } => is_trusted,
        // In the user namespace of its unit an agent cannot tell one user from another. But an
        // object that it can open although other users cannot belongs to one of its groups.
        Role::Server | Role::Agent => is_trusted || status.st_mode & OTHERS == 0,
    };
    if is_enough {
        Ok(())
    } else {
        Err(names::not_ours(names::path(name), status.st_uid))
    }
}

/// Checks that an object is served and open to local clients, before the others see a new
/// participant. Later checks find changes after this one.
pub(super) fn check_local_access(
    file: BorrowedFd<'_>,
    name: &str,
    permission: u64,
) -> Result<(), SegmentError> {
    let failed = || SegmentError::system("read the status of", name);
    let mut word = [0; 8];
    pread(file, &mut word, Field::LocalAccess as i64).map_err(failed())?;
    let is_served = ofd::is_locked_elsewhere(file, byte(SERVER)).map_err(failed())?;
    if u64::from_le_bytes(word) == permission && is_served {
        Ok(())
    } else {
        Err(SegmentError::NotReady {
            name: name.to_owned(),
        })
    }
}

/// Trusts root, the caller and the user of the service. The group is not enough: any of its members
/// could have created the object.
fn is_trusted(owner: u32, user: u32, service: impl FnOnce() -> Option<u32>) -> bool {
    owner == 0 || owner == user || service() == Some(owner)
}

/// The id of [`SERVICE_USER`], if this machine has one. It is looked up once, and only if the owner
/// is another user.
fn service_user() -> Option<u32> {
    static FOUND: OnceLock<u32> = OnceLock::new();
    FOUND.get().copied().or_else(|| {
        let user = User::from_name(SERVICE_USER).ok()??;
        Some(*FOUND.get_or_init(|| user.uid.as_raw()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_the_caller_and_the_user_of_the_service_are_trusted_and_no_other() {
        let service = || Some(998);
        for (owner, expected) in [
            (0, true),
            (1000, true),
            (998, true),
            (1001, false),
            (65534, false),
        ] {
            assert_eq!(is_trusted(owner, 1000, service), expected, "{owner}");
        }
        assert!(
            !is_trusted(998, 1000, || None),
            "a machine without that user"
        );
        assert!(is_trusted(1000, 1000, || panic!(
            "looked up for a segment that the caller owns"
        )));
    }
}
