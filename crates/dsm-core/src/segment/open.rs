//! Making, re-opening and attaching to a segment's shared-memory object and semaphores.

use super::gate::{Gate, Shut};
use super::geometry::{Geometry, LOCKS, WORKERS, overhead};
use super::kept_names::{is_named, kept_name, release_names};
use super::participant::{self, Role, SERVER};
use super::process::Process;
use super::shared::Shared;
use super::superblock::{self, Field, Identity, State, Verdict};
use super::{Segment, SegmentError, local, names};
use crate::layout::Layout;
use crate::sys::clock::MachineClock;
use crate::sys::mapping::Mapping;
use crate::sys::memory_limit;
use crate::sys::ofd;
use crate::sys::own_file::OwnFile;
use nix::errno::Errno;
use nix::fcntl::{OFlag, posix_fallocate};
use nix::sys::mman::{shm_open, shm_unlink};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::geteuid;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

/// Bytes allocated between two reports of progress.
const ALLOCATION_STEP: usize = 64 << 20;

/// Bytes that a server needs beside its segment to start: stacks, tables, code, and what the kernel
/// keeps for its files. It was measured to take 1.5 MiB of a control group, and takes more with its
/// first connections.
pub const OWN_MEMORY: u64 = 4 << 20;

/// What a server found under its segment's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing: the memory begins as zeros, with a new incarnation.
    Nothing,
    /// An object that its maker had not finished: as nothing.
    Unfinished,
    /// A segment that was thrown away, as asked by `--reset`.
    Reset,
    /// The segment, with its memory.
    Segment {
        /// The rest of the layout (N, an address) was another one when it was last served.
        layout_changed: bool,
    },
}

/// How a server wants its segment to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With what is there, else with zeros.
    Serve,
    /// With what is there, else shut until it is restored, or accepted as zeros.
    ServeOrWait,
    /// With zeros: what lies under the name is thrown away, whatever it is, unless another dsmd
    /// serves it.
    Reset,
}

/// A server's segment, opened.
pub struct Opened {
    /// The segment.
    pub segment: Segment,
    /// What was found under its name.
    pub found: Found,
}

impl Segment {
    /// Opens the segment of server `index` of `layout` as its server, and makes it if there is
    /// none. Everything that dead participants left is repaired when this returns. `progress` is
    /// told how many of how many bytes are allocated, at least every 64 MiB, and can break the
    /// start off.
    ///
    /// # Errors
    /// See [`SegmentError`]; an object that does not fit is left as it is.
    pub fn serve(
        layout: &Layout,
        index: u32,
        start: Start,
        progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Opened, SegmentError> {
        let name = names::object(layout, index);
        let identity = Identity::new(layout, index);
        let geometry = Geometry::new(layout.k()).ok_or(SegmentError::TooLarge { k: layout.k() })?;
        check_second_name(&name)?;
        let mut reset_done = false;
        // Judged again after a retirement: another dsmd may have made a segment in between.
        let (file, found) = loop {
            let file = open_as_server(&name)?;
            let wants_reset =
                start == Start::Reset && !reset_done && size_of(file.as_fd(), &name)? > 0;
            let verdict = if wants_reset {
                Some(Verdict::Retired)
            } else {
                judge(file.as_fd(), &name, &identity, &geometry)?
            };
            match verdict {
                None if reset_done => break (file, Found::Reset),
                None => break (file, Found::Nothing),
                Some(Verdict::Unfinished) => break (file, Found::Unfinished),
                Some(Verdict::Ready) => {
                    break (
                        file,
                        Found::Segment {
                            layout_changed: false,
                        },
                    );
                }
                // As asked, or by a reset that was cut short before it removed the name.
                Some(Verdict::Retired) => {
                    retire(&file, &name, &identity, &geometry)?;
                    reset_done = true;
                }
            }
        };
        if let Found::Segment { .. } = found {
            let segment = assemble(name.clone(), file, geometry, SERVER, Role::Server)?;
            let mapping = &segment.shared.mapping;
            let layout_changed = !superblock::has_fingerprint(mapping, identity.fingerprint);
            if layout_changed {
                // Of the layout before; those of this one are let in when the server is ready.
                segment.refuse_local();
            }
            superblock::write_fingerprint(mapping, identity.fingerprint);
            segment.shared.repair_all_dead();
            segment.shared.repair_all_orphans();
            return Ok(Opened {
                segment,
                found: Found::Segment { layout_changed },
            });
        }
        let gate = if start == Start::ServeOrWait {
            Gate::Shut(Shut::Waiting)
        } else {
            Gate::Open
        };
        let segment = make(&name, file, geometry, &identity, gate, progress)?;
        Ok(Opened { segment, found })
    }

    /// [`SegmentError::InUse`] or [`SegmentError::UnderRepair`] when a dsmd serves the segment of
    /// server `index` of `layout`.
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
        is_taken.then(|| taken(&file, name))
    }

    /// Opens the segment of server `index` of `layout` as another participant beside its server.
    ///
    /// # Errors
    /// [`SegmentError::NotReady`] when there is none in use; see [`SegmentError`] for the others.
    pub fn attach(layout: &Layout, index: u32) -> Result<Self, SegmentError> {
        attach(layout, index, Role::Beside)
    }
}

/// Opens the segment as a participant that is not its server.
pub(super) fn attach(layout: &Layout, index: u32, role: Role) -> Result<Segment, SegmentError> {
    let name = names::object(layout, index);
    let identity = Identity::new(layout, index);
    let geometry = Geometry::new(layout.k()).ok_or(SegmentError::TooLarge { k: layout.k() })?;
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let file = match OwnFile::open(|| shm_open(name.as_str(), flags, Mode::empty())) {
        Err(Errno::ENOENT) => return Err(SegmentError::NotReady { name }),
        other => other.map_err(names::not_opened(&name))?,
    };
    local::check_maker(file.as_fd(), &name, role)?;
    if let Role::Client { permission } = role {
        local::check_door(file.as_fd(), &name, permission)?;
    }
    if judge(file.as_fd(), &name, &identity, &geometry)? != Some(Verdict::Ready) {
        return Err(SegmentError::NotReady { name });
    }
    let participant = participant::claim_other(file.as_fd(), &name, role)?;
    let segment = assemble(name, file, geometry, participant, role)?;
    // A reset in between would leave an old object with new semaphores.
    if segment.is_ready() {
        Ok(segment)
    } else {
        Err(SegmentError::NotReady {
            name: segment.name().to_owned(),
        })
    }
}

/// Opens or makes the object and takes the server's byte on it, which no child of this process may
/// keep from then on.
fn open_as_server(name: &str) -> Result<OwnFile, SegmentError> {
    let path = names::path(name);
    // A name that is removed between open and lock leads to another object next time; a second
    // reset would have to come at the same moment to make a third round needed.
    for _ in 0..8 {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC;
        let file = OwnFile::open(|| shm_open(name, flags, names::MODE))
            .map_err(names::failed("open", &path))?;
        // Before it is locked: who has locked a byte of another user's file does not matter.
        check_own(file.as_fd(), &path)?;
        let claimed = participant::claim_server(file.as_fd()).map_err(SegmentError::lock(name));
        if !claimed.inspect_err(|_| remove_if_empty(&file, name))? {
            return Err(taken(&file, name.to_owned()));
        }
        if fstat(&file)
            .map_err(SegmentError::system("look at", name))?
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

/// Removes an object that has just been made, and that no server can lock.
fn remove_if_empty(file: &OwnFile, name: &str) {
    if size_of(file.as_fd(), name).is_ok_and(|size| size == 0) {
        // The error that matters is that of the lock.
        let _ = shm_unlink(name);
    }
}

/// Refuses to make a segment beside one that is served and has lost its first name, which its
/// server gives back within a second.
fn check_second_name(name: &str) -> Result<(), SegmentError> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
    // Without a second name, or without the right to it, there is nothing to wait for.
    let Ok(kept) = shm_open(kept_name(name).as_str(), flags, Mode::empty()) else {
        return Ok(());
    };
    // Any user may make a file of that name, and lock it.
    let is_own = fstat(&kept).is_ok_and(|status| status.st_uid == geteuid().as_raw());
    if !is_own
        || is_named(&kept, name)
        || participant::claim_server(kept.as_fd()).map_err(SegmentError::system("lock", name))?
    {
        return Ok(());
    }
    Err(taken(kept, name.to_owned()))
}

/// Why the server's byte is not to be had.
fn taken(file: impl AsFd, name: String) -> SegmentError {
    match Process::repairer_of_file(&file, SERVER) {
        Some(process) => SegmentError::UnderRepair { name, process },
        None => SegmentError::InUse {
            process: Process::of_file(file, SERVER),
            name,
        },
    }
}

/// Refuses what is no object of this user: any user may make files in /dev/shm, and what another
/// one has laid out is not to be trusted with the memory.
fn check_own(file: BorrowedFd<'_>, path: &Path) -> Result<(), SegmentError> {
    let status = fstat(file).map_err(SegmentError::system("look at", &path.to_string_lossy()))?;
    names::check_kind(&status, path)?;
    if status.st_uid == geteuid().as_raw() {
        Ok(())
    } else {
        Err(names::not_ours(path.to_owned(), status.st_uid))
    }
}

fn size_of(file: BorrowedFd<'_>, name: &str) -> Result<u64, SegmentError> {
    let status = fstat(file).map_err(SegmentError::system("look at", name))?;
    Ok(u64::try_from(status.st_size).unwrap_or(0))
}

/// Judges the object by a copy of its head, before it is mapped. `None` when it is empty.
///
/// One that is shorter than a head is that of a maker who died between its first write and its
/// first allocation, or foreign: the missing bytes count as zeros.
fn judge(
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

/// Takes an object out of use: tells those who have it mapped, if it is a segment at all, and
/// removes its name.
fn retire(
    file: &OwnFile,
    name: &str,
    identity: &Identity,
    geometry: &Geometry,
) -> Result<(), SegmentError> {
    // Also in one of another k, to whose local clients nobody would say it otherwise. What is no
    // segment goes anyway.
    if size_of(file.as_fd(), name)? >= superblock::SIZE as u64 {
        nix::sys::uio::pwrite(file, &[0; 8], Field::LocalAccess as i64)
            .map_err(SegmentError::system("close", name))?;
    }
    if let Ok(Some(Verdict::Ready)) = judge(file.as_fd(), name, identity, geometry) {
        superblock::set_state(&map(file, geometry, name)?, State::Retired);
    }
    shm_unlink(name).map_err(SegmentError::system("remove", name))?;
    release_names(name);
    Ok(())
}

/// Makes a new segment in an object that holds nothing of value. What fails leaves no name behind.
fn make(
    name: &str,
    file: OwnFile,
    geometry: Geometry,
    identity: &Identity,
    gate: Gate,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Segment, SegmentError> {
    // Those of a server that was killed, whose objects were removed since: their memory may be
    // needed for these.
    release_names(name);
    let free = free_room();
    // Another reference to the open file: the server's byte stays locked until what failed is
    // tidied up.
    let _locked = file
        .duplicate()
        .map_err(SegmentError::system("keep", name))?;
    let made = begin(&file, name, identity.k).and_then(|()| {
        allocate(&file, name, &geometry, progress)?;
        superblock::write(
            &map(&file, &geometry, name)?,
            identity,
            random_incarnation()?,
        );
        assemble(name.to_owned(), file, geometry, SERVER, Role::Server)
    });
    match made {
        Ok(segment) => {
            segment.shared.set_gate(gate);
            superblock::set_state(&segment.shared.mapping, State::Ready);
            Ok(segment)
        }
        Err(error) => {
            // The error that matters is the first one, so those of tidying up are dropped.
            let _ = shm_unlink(name);
            names::remove_others(name);
            Err(error.of_making(identity.k, overhead(identity.k), free.unwrap_or(0)))
        }
    }
}

/// Looks whether there is room, and makes what belongs to an object, before it gets its memory:
/// that another user has one of the names is known at once, however large the memory is.
fn begin(file: &OwnFile, name: &str, k: u64) -> Result<(), SegmentError> {
    // What was left here does not count as taken.
    nix::unistd::ftruncate(file, 0).map_err(SegmentError::system("empty", name))?;
    names::remove_semaphores(name);
    check_room(name, k)?;
    open_copy_area(name, geteuid().as_raw(), true)?;
    (0..LOCKS).try_for_each(|lock| names::make_semaphore(name, lock))
}

/// Gives the object all its memory now, as zeros: a full /dev/shm must be an error here and not a
/// SIGBUS later.
fn allocate(
    file: &OwnFile,
    name: &str,
    geometry: &Geometry,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<(), SegmentError> {
    let head = superblock::unfinished_head();
    // So few bytes are written wholly or not at all.
    nix::sys::uio::pwrite(file, &head, 0).map_err(SegmentError::system("begin", name))?;
    // The mode given to shm_open is cut by the umask, which is the caller's business for files, not
    // for segments.
    fchmod(file, names::MODE).map_err(SegmentError::system("set the mode of", name))?;
    let mut done = 0;
    while done < geometry.total {
        let step = ALLOCATION_STEP.min(geometry.total - done);
        // Geometry keeps the total inside an i64.
        #[allow(clippy::cast_possible_wrap)]
        match posix_fallocate(file, done as i64, step as i64) {
            Ok(()) => done += step,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(SegmentError::system("allocate", name)(error)),
        }
        if progress(done as u64, geometry.total as u64).is_break() {
            return Err(SegmentError::Interrupted {
                name: name.to_owned(),
            });
        }
    }
    Ok(())
}

/// Refuses a segment that cannot be had before anything is allocated: the memory that a start in
/// vain takes is missing elsewhere, and a process over the limit of its control group is killed
/// without a word.
fn check_room(name: &str, k: u64) -> Result<(), SegmentError> {
    let (name, overhead) = (name.to_owned(), overhead(k));
    let needed = k + overhead + OWN_MEMORY;
    if let Some(limit) = memory_limit::of_this_process().filter(|limit| limit.bytes < needed) {
        let (limit, source_of_limit) = (limit.bytes, limit.source);
        return Err(SegmentError::MemoryLimit {
            name,
            needed,
            overhead,
            limit,
            source_of_limit,
        });
    }
    let (needed, free) = (k + overhead, free_room());
    if free.is_some_and(|free| free < needed) {
        return Err(SegmentError::NoRoom {
            name,
            needed,
            overhead,
            free: free.unwrap_or(0),
        });
    }
    Ok(())
}

/// Bytes that /dev/shm could still give; `None` where it has no limit, or does not say.
fn free_room() -> Option<u64> {
    let system = nix::sys::statvfs::statvfs("/dev/shm")
        .ok()
        .filter(|system| system.blocks() > 0)?;
    Some(system.blocks_available() * system.fragment_size())
}

fn map(file: impl AsFd, geometry: &Geometry, name: &str) -> Result<Mapping, SegmentError> {
    let length = NonZeroUsize::new(geometry.total).ok_or(SegmentError::TooLarge { k: 0 })?;
    // The object was measured by fstat, or allocated, to have this length.
    Mapping::new(file, length).map_err(SegmentError::system("map", name))
}

fn open_copy_area(name: &str, owner: u32, create: bool) -> Result<OwnFile, SegmentError> {
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
    let status = fstat(&file).map_err(SegmentError::system("look at", &name))?;
    names::check_kind(&status, &path)?;
    // What another user has laid out would be told every page that is overwritten during a
    // snapshot.
    if status.st_uid != owner {
        return Err(names::not_ours(path, status.st_uid));
    }
    if create {
        fchmod(&file, names::MODE).map_err(SegmentError::system("set the mode of", &name))?;
    }
    Ok(file)
}

/// Maps an object whose byte `participant` is locked, opens its semaphores and enters the table of
/// participants.
fn assemble(
    name: String,
    file: OwnFile,
    geometry: Geometry,
    participant: usize,
    role: Role,
) -> Result<Segment, SegmentError> {
    let mapping = map(&file, &geometry, &name)?;
    let owner = fstat(&file)
        .map_err(SegmentError::system("look at", &name))?
        .st_uid;
    let semaphore = |lock| match role {
        Role::Server => names::restore_semaphore(&name, lock),
        Role::Beside | Role::Client { .. } => names::open_semaphore(&name, lock, owner),
    };
    let semaphores = (0..LOCKS).map(semaphore).collect::<Result<Vec<_>, _>>()?;
    let copy_area = open_copy_area(&name, owner, role == Role::Server)?;
    let shared = Shared {
        name,
        file,
        copy_area,
        mapping,
        geometry,
        semaphores,
        participant,
        role,
        clock: MachineClock::of_process(),
        repairing: Mutex::new(()),
        stalls: [const { AtomicU64::new(0) }; WORKERS],
        deadlines: [const { AtomicU64::new(u64::MAX) }; WORKERS],
    };
    shared.enter();
    Ok(Segment {
        shared: Arc::new(shared),
    })
}

/// A random number that is not zero.
pub(super) fn random_incarnation() -> Result<u64, SegmentError> {
    loop {
        let number = getrandom::u64().map_err(|error| SegmentError::Randomness {
            reason: error.to_string(),
        })?;
        if number != 0 {
            return Ok(number);
        }
    }
}
