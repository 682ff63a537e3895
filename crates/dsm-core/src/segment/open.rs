//! Opening a segment: as its server, which creates the object if there is none, or as another
//! participant.
//!
//! A segment that is returned here is sound: its owner, size and header were checked before it was
//! mapped.

use super::attachment::{SegmentAttachment, Tables};
use super::create::create;
use super::gate::{AccessError, Gate};
use super::geometry::{Geometry, LOCKS, WORKERS};
use super::kept_names::{is_named, kept_name, release_names};
use super::participant::{self, Role, SERVER};
use super::process::Process;
use super::superblock::{self, Field, Identity, State, Superblock, Verdict};
use super::{Segment, SegmentError, local, names};
use crate::layout::Layout;
use crate::sys::clock::MachineClock;
use crate::sys::mapping::Mapping;
use crate::sys::ofd;
use crate::sys::own_file::OwnFile;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::mman::{shm_open, shm_unlink};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::geteuid;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

/// What a server found under its segment's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No object: the memory starts as zeros, with a new incarnation.
    Nothing,
    /// An object whose creator died before it was finished. It is treated as if there were none.
    Unfinished,
    /// A segment that was discarded because of `--reset`.
    Reset,
    /// The segment, with its contents.
    Segment {
        /// The addresses of the servers up to this one differ from those that it was last served
        /// with; in a segment of format 3, those of any server.
        layout_changed: bool,
    },
}

/// What the memory of a server starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the contents that are there, else with zeros.
    Serve,
    /// With the contents that are there. If there are none, the memory is closed until a restore,
    /// or until zeros are accepted.
    ServeOrWait,
    /// With zeros: an object of that name is discarded, whatever it is, unless another dsmd serves
    /// it.
    Reset,
}

/// A segment that was opened by its server.
pub struct Opened {
    /// The segment.
    pub segment: Segment,
    /// What was found under its name.
    pub found: Found,
}

impl Segment {
    /// Opens the segment of server `index` of `layout` as its server, and creates it if there is
    /// none. It repairs every dead participant before it returns. `progress` is called with the
    /// bytes allocated so far and the total, at least every 64 MiB, and can interrupt the start.
    ///
    /// # Errors
    /// See [`SegmentError`]. An object that does not fit is left unchanged.
    pub fn serve(
        layout: &Layout,
        index: u32,
        start: Start,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Opened, SegmentError> {
        let name = names::object(layout, index);
        let identity = Identity::new(layout, index);
        let geometry = Geometry::new(layout.share_size()).ok_or(SegmentError::TooLarge {
            k: layout.share_size(),
        })?;
        check_second_name(&name)?;
        let mut reset_done = false;
        // Checked again after an object was retired: another dsmd may have created a segment in
        // between.
        let (file, found) = loop {
            let file = open_as_server(&name)?;
            let wants_reset =
                start == Start::Reset && !reset_done && size_of(file.as_fd(), &name)? > 0;
            let verdict = if wants_reset {
                Some(Verdict::Retired)
            } else {
                check_header(file.as_fd(), &name, &identity, &geometry)?
            };
            match verdict {
                None if reset_done => break (file, Found::Reset),
                None => break (file, Found::Nothing),
                Some(Verdict::Unfinished) => break (file, Found::Unfinished),
                Some(verdict @ (Verdict::Ready | Verdict::Older)) => {
                    let segment = assemble(name, file, geometry, SERVER, Role::Server)?;
                    return serve_found(segment, layout, &identity, verdict == Verdict::Older);
                }
                // `--reset` asks for it, or an earlier reset was killed before it removed the name.
                Some(Verdict::Retired) => {
                    retire(&file, &name, &identity, &geometry)?;
                    reset_done = true;
                }
            }
        };
        let gate = if start == Start::ServeOrWait {
            Gate::Closed(AccessError::Waiting)
        } else {
            Gate::Open
        };
        let segment = create(&name, file, geometry, &identity, gate, progress)?;
        Ok(Opened { segment, found })
    }

    /// Returns [`SegmentError::InUse`] or [`SegmentError::UnderRepair`] if a dsmd serves the
    /// segment of server `index` of `layout`.
    #[must_use]
    pub fn in_use(layout: &Layout, index: u32) -> Option<SegmentError> {
        let name = names::object(layout, index);
        let file = shm_open(
            name.as_str(),
            OFlag::O_RDWR | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .ok()?;
        let is_taken = ofd::is_locked_elsewhere(&file, participant::byte(SERVER)).ok()?;
        check_own(file.as_fd(), &names::path(&name)).ok()?;
        is_taken.then(|| in_use_error(&file, name))
    }

    /// Opens the segment of server `index` of `layout` as a participant that is not its server,
    /// such as a snapshot agent.
    ///
    /// # Errors
    /// [`SegmentError::NotReady`] when no server uses it; see [`SegmentError`] for the others.
    pub fn attach(layout: &Layout, index: u32) -> Result<Self, SegmentError> {
        attach(layout, index, Role::Agent)
    }
}

/// Takes over a segment that an earlier dsmd has left: repairs what dead participants left, and
/// upgrades it if it is of the older format.
fn serve_found(
    segment: Segment,
    layout: &Layout,
    identity: &Identity,
    is_older: bool,
) -> Result<Opened, SegmentError> {
    let superblock = &segment.attachment.tables.superblock;
    // An upgrade that was killed may have written the new fingerprint.
    let is_as_before = superblock.has_fingerprint(identity.fingerprint)
        || is_older && superblock.has_fingerprint(layout.fingerprint());
    let layout_changed = !is_as_before;
    if layout_changed || is_older {
        // The clients of the previous layout or format lose access. Those of this one get it when
        // the server is ready.
        segment.disable_local_access();
    }
    segment.attachment.repair_all_dead();
    segment.attachment.repair_all_orphans();
    if is_older {
        segment.upgrade(identity)?;
    } else {
        superblock.write_fingerprint(identity.fingerprint);
    }
    Ok(Opened {
        segment,
        found: Found::Segment { layout_changed },
    })
}

/// Opens the segment as a participant that is not its server.
pub(super) fn attach(layout: &Layout, index: u32, role: Role) -> Result<Segment, SegmentError> {
    let name = names::object(layout, index);
    let identity = Identity::new(layout, index);
    let geometry = Geometry::new(layout.share_size()).ok_or(SegmentError::TooLarge {
        k: layout.share_size(),
    })?;
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let file = match OwnFile::open(|| shm_open(name.as_str(), flags, Mode::empty())) {
        Err(Errno::ENOENT) => return Err(SegmentError::NotReady { name }),
        other => other.map_err(names::not_opened(&name))?,
    };
    local::check_owner(file.as_fd(), &name, role)?;
    if let Role::Client { permission } = role {
        local::check_local_access(file.as_fd(), &name, permission)?;
    }
    match check_header(file.as_fd(), &name, &identity, &geometry)? {
        Some(Verdict::Ready) => {}
        Some(Verdict::Older) => return Err(SegmentError::NotUpgraded { name }),
        _ => return Err(SegmentError::NotReady { name }),
    }
    let participant = participant::lock_free_byte(file.as_fd(), &name, role)?;
    let segment = assemble(name, file, geometry, participant, role)?;
    // A reset in between would combine the old object with new semaphores.
    if segment.is_ready() {
        Ok(segment)
    } else {
        Err(SegmentError::NotReady {
            name: segment.name().to_owned(),
        })
    }
}

/// Opens or creates the object and locks the server's byte of it. From then on no child of this
/// process keeps that lock.
fn open_as_server(name: &str) -> Result<OwnFile, SegmentError> {
    let path = names::path(name);
    // If the name is removed between open and lock, the next round opens another object. A third
    // round takes a second reset at the same moment.
    for _ in 0..8 {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC;
        let file = OwnFile::open(|| shm_open(name, flags, names::MODE))
            .map_err(names::failed("open", &path))?;
        // Before it is locked: a lock on another user's file means nothing here.
        check_own(file.as_fd(), &path)?;
        let locked = participant::lock_server_byte(file.as_fd()).map_err(SegmentError::lock(name));
        if !locked.inspect_err(|_| remove_if_empty(&file, name))? {
            return Err(in_use_error(&file, name.to_owned()));
        }
        if fstat(&file)
            .map_err(SegmentError::system("read the status of", name))?
            .st_nlink
            > 0
        {
            return Ok(file);
        }
    }
    Err(SegmentError::InUse {
        name: name.to_owned(),
        process: Process::Unknown,
    })
}

/// Removes an object that was just created and that no server can lock.
fn remove_if_empty(file: &OwnFile, name: &str) {
    if size_of(file.as_fd(), name).is_ok_and(|size| size == 0) {
        // The caller reports the error of the lock, so an error of this removal is dropped.
        let _ = shm_unlink(name);
    }
}

/// Refuses to create a segment if one is served that has lost its first name: its server restores
/// that name within a second.
fn check_second_name(name: &str) -> Result<(), SegmentError> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
    // If there is no second name, or this process may not open it, there is nothing to check.
    let Ok(kept) = shm_open(kept_name(name).as_str(), flags, Mode::empty()) else {
        return Ok(());
    };
    // Any user may create a file of that name, and lock it.
    let is_own = fstat(&kept).is_ok_and(|status| status.st_uid == geteuid().as_raw());
    if !is_own
        || is_named(&kept, name)
        || participant::lock_server_byte(kept.as_fd())
            .map_err(SegmentError::system("lock", name))?
    {
        return Ok(());
    }
    Err(in_use_error(kept, name.to_owned()))
}

/// The error that says why the server's byte is locked.
fn in_use_error(file: impl AsFd, name: String) -> SegmentError {
    match Process::repairer_of_file(&file, SERVER) {
        Some(process) => SegmentError::UnderRepair { name, process },
        None => SegmentError::InUse {
            process: Process::of_file(file, SERVER),
            name,
        },
    }
}

/// Refuses an object that this user does not own: any user may create files in /dev/shm, and one
/// made by another user cannot be trusted with the memory.
fn check_own(file: BorrowedFd<'_>, path: &Path) -> Result<(), SegmentError> {
    let status = fstat(file).map_err(SegmentError::system(
        "read the status of",
        &path.to_string_lossy(),
    ))?;
    names::check_kind(&status, path)?;
    if status.st_uid == geteuid().as_raw() {
        Ok(())
    } else {
        Err(names::not_ours(path.to_owned(), status.st_uid))
    }
}

fn size_of(file: BorrowedFd<'_>, name: &str) -> Result<u64, SegmentError> {
    let status = fstat(file).map_err(SegmentError::system("read the status of", name))?;
    Ok(u64::try_from(status.st_size).unwrap_or(0))
}

/// Checks the object's header in a private copy, before the object is mapped. Returns `None` if it
/// is empty.
///
/// An object that is shorter than a header is foreign, or its creator died between its first write
/// and its first allocation. The missing bytes count as zeros.
fn check_header(
    file: BorrowedFd<'_>,
    name: &str,
    identity: &Identity,
    geometry: &Geometry,
) -> Result<Option<Verdict>, SegmentError> {
    let size = size_of(file, name)?;
    if size == 0 {
        return Ok(None);
    }
    let mut head = [0; superblock::SIZE];
    nix::sys::uio::pread(file, &mut head, 0).map_err(SegmentError::system("read", name))?;
    superblock::check(name, &head, size, identity, geometry).map(Some)
}

/// Takes an object out of use: marks it as retired for the processes that have it mapped, if it is
/// a segment at all, and removes its name.
fn retire(
    file: &OwnFile,
    name: &str,
    identity: &Identity,
    geometry: &Geometry,
) -> Result<(), SegmentError> {
    // Local access is also revoked in a segment of another k: its local clients have no other way
    // to learn of the reset. A file that is no segment is removed anyway.
    if size_of(file.as_fd(), name)? >= superblock::SIZE as u64 {
        nix::sys::uio::pwrite(file, &[0; 8], Field::LocalAccess as i64)
            .map_err(SegmentError::system("close", name))?;
    }
    if let Ok(Some(Verdict::Ready | Verdict::Older)) =
        check_header(file.as_fd(), name, identity, geometry)
    {
        Superblock::new(&map(file, geometry, name)?).set_state(State::Retired);
    }
    shm_unlink(name).map_err(SegmentError::system("remove", name))?;
    release_names(name);
    Ok(())
}

pub(super) fn map(
    file: impl AsFd,
    geometry: &Geometry,
    name: &str,
) -> Result<Arc<Mapping>, SegmentError> {
    let length = NonZeroUsize::new(geometry.total).ok_or(SegmentError::TooLarge { k: 0 })?;
    // fstat, or the allocation, has shown that the object has this length.
    Mapping::new(file, length)
        .map(Arc::new)
        .map_err(SegmentError::system("map", name))
}

pub(super) fn open_copy_area(
    name: &str,
    owner: u32,
    create: bool,
) -> Result<OwnFile, SegmentError> {
    let flags = OFlag::O_RDWR
        | OFlag::O_CLOEXEC
        | if create {
            OFlag::O_CREAT
        } else {
            OFlag::empty()
        };
    let name = names::copy_area(name);
    let path = names::path(&name);
    let file = OwnFile::open(|| shm_open(name.as_str(), flags, names::MODE))
        .map_err(names::failed("open the copy area", &path))?;
    let status = fstat(&file).map_err(SegmentError::system("read the status of", &name))?;
    names::check_kind(&status, &path)?;
    // Writers save pages here during a snapshot: the owner of the file could read them.
    if status.st_uid != owner {
        return Err(names::not_ours(path, status.st_uid));
    }
    if create {
        fchmod(&file, names::MODE).map_err(SegmentError::system("set the mode of", &name))?;
    }
    Ok(file)
}

/// Maps the object, opens its semaphores and enters the table of participants. The caller has
/// locked the byte of `participant`.
pub(super) fn assemble(
    name: String,
    file: OwnFile,
    geometry: Geometry,
    participant: usize,
    role: Role,
) -> Result<Segment, SegmentError> {
    let mapping = map(&file, &geometry, &name)?;
    let owner = fstat(&file)
        .map_err(SegmentError::system("read the status of", &name))?
        .st_uid;
    let semaphore = |lock| match role {
        Role::Server => names::restore_semaphore(&name, lock),
        Role::Agent | Role::Client { .. } => names::open_semaphore(&name, lock, owner),
    };
    let semaphores = (0..LOCKS).map(semaphore).collect::<Result<Vec<_>, _>>()?;
    let copy_area = open_copy_area(&name, owner, role == Role::Server)?;
    let attachment = SegmentAttachment {
        name,
        file,
        copy_area,
        tables: Tables::new(&mapping, geometry),
        geometry,
        semaphores,
        participant,
        role,
        clock: MachineClock::of_process(),
        repairing: Mutex::new(()),
        stalls: [const { AtomicU64::new(0) }; WORKERS],
        deadlines: [const { AtomicU64::new(u64::MAX) }; WORKERS],
    };
    attachment.enter();
    Ok(Segment {
        attachment: Arc::new(attachment),
    })
}
