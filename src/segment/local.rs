//! Local clients: participants that use the memory without the network, as long as the segment's server lets them.

use super::intent::LocalCounter;
use super::open::attach;
use super::participant::{Role, SERVER, byte};
use super::superblock::{Field, has_fingerprint, permission};
use super::{Segment, SegmentError, WORKERS, names};
use crate::layout::{Fingerprint, Layout};
use crate::protocol::LocalTraffic;
use crate::sys::{ofd, own_file};
use nix::libc::mode_t;
use nix::sys::stat::{FileStat, fstat};
use nix::sys::uio::pread;
use nix::unistd::{getegid, geteuid, getgroups};
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

/// The bits of a mode that say what everybody may do.
const OTHERS: mode_t = 0o007;

impl Segment {
    /// Opens the segment of server `index` of `layout` as a client of it on its host, and tells its incarnation.
    ///
    /// # Errors
    /// [`SegmentError::NotOurs`] when somebody made it who need not be trusted with the memory;
    /// [`SegmentError::NotReady`] when no server serves it, or not to clients of this layout, or its memory waits for a
    /// restore; see [`SegmentError`] for the others.
    pub fn attach_as_client(layout: &Layout, index: u32) -> Result<(Self, u64), SegmentError> {
        let fingerprint = layout.fingerprint();
        let permission = permission(fingerprint);
        let segment = attach(layout, index, Role::Client { permission })?;
        let mapping = &segment.shared.mapping;
        // First the incarnation: one that a restore is about to replace is found to be shut, or is not the new one; one of
        // a segment that was thrown away is found without permission.
        let incarnation = segment.incarnation();
        let admits = Field::LocalAccess.of(mapping).load(Ordering::Acquire) == permission && segment.is_served();
        if admits && has_fingerprint(mapping, fingerprint) && segment.shut().is_none() && segment.is_ready() {
            Ok((segment, incarnation))
        } else {
            Err(SegmentError::NotReady { name: segment.name().to_owned() })
        }
    }

    /// Lets clients of the layout with this fingerprint work on the segment. What they do is in no operation log.
    pub fn admit_local(&self, fingerprint: Fingerprint) {
        Field::LocalAccess.of(&self.shared.mapping).store(permission(fingerprint), Ordering::SeqCst);
    }

    /// Lets no local client begin anything any more; what they are at is finished.
    pub fn refuse_local(&self) {
        Field::LocalAccess.of(&self.shared.mapping).store(0, Ordering::SeqCst);
    }

    /// Whether the object has lost its name, and so whoever opens the segment finds another one or none. A system call.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        fstat(&self.shared.file).is_ok_and(|status| status.st_nlink == 0)
    }

    /// Whether there is a server that has it open now. A system call.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.shared.is_alive(SERVER)
    }

    /// What local clients have done since the segment was made.
    #[must_use]
    pub fn local_traffic(&self) -> LocalTraffic {
        let sum = |counter| {
            let count = |worker| self.shared.local_counter(worker, counter).load(Ordering::Relaxed);
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

/// A number that is another one in a child made by `fork(2)`: what was attached under another one is not to be used.
#[must_use]
#[inline]
pub fn generation() -> u64 {
    own_file::generation()
}

/// Looks at an object before it is mapped and anybody hears of a new participant: whether it was made by somebody who may
/// be trusted with what this process writes, for anybody may make files in /dev/shm, under any name; and whether it is
/// served and open to clients. What changes meanwhile is found by the looks that follow.
pub(super) fn check_door(file: BorrowedFd<'_>, name: &str, permission: u64) -> Result<(), SegmentError> {
    let failed = || SegmentError::system("look at", name);
    let status = fstat(file).map_err(failed())?;
    let mut groups = getgroups().map_err(failed())?;
    groups.push(getegid());
    let groups: Vec<u32> = groups.into_iter().map(nix::unistd::Gid::as_raw).collect();
    if !is_trusted(&status, geteuid().as_raw(), &groups) {
        return Err(names::not_ours(names::path(name), status.st_uid));
    }
    let mut word = [0; 8];
    pread(file, &mut word, Field::LocalAccess as i64).map_err(failed())?;
    let is_served = ofd::is_locked_elsewhere(file, byte(SERVER)).map_err(failed())?;
    if u64::from_le_bytes(word) == permission && is_served {
        Ok(())
    } else {
        Err(SegmentError::NotReady { name: name.to_owned() })
    }
}

/// Root and we ourselves are trusted, and whoever shares it with a group of ours and with nobody else.
fn is_trusted(status: &FileStat, user: u32, groups: &[u32]) -> bool {
    let for_group_only = status.st_mode & OTHERS == 0 && groups.contains(&status.st_gid);
    status.st_uid == 0 || status.st_uid == user || for_group_only
}
