//! Creation of a segment: room, memory, semaphores, header.
//!
//! A creation either gives a segment that is ready, or fails and leaves no name behind. If the
//! process is killed in between, the header marks the object as unfinished.

use super::gate::Gate;
use super::geometry::{Geometry, LOCKS, overhead};
use super::kept_names::release_names;
use super::open::{assemble, map, open_copy_area};
use super::participant::{Role, SERVER};
use super::superblock::{self, Identity, State, Superblock};
use super::{Segment, SegmentError, names};
use crate::sys::memory_limit;
use crate::sys::own_file::OwnFile;
use nix::errno::Errno;
use nix::fcntl::posix_fallocate;
use nix::sys::mman::shm_unlink;
use nix::sys::stat::fchmod;
use nix::unistd::geteuid;
use std::ops::ControlFlow;

/// Bytes that are allocated between two reports of progress.
const ALLOCATION_STEP: usize = 64 << 20;

/// Bytes that a server needs in addition to its segment to start: stacks, tables, code, and what
/// the kernel keeps for its files. A start was measured to take 1.5 MiB of a control group; the
/// first connections take more.
pub const SERVER_MEMORY: u64 = 4 << 20;

/// Creates a new segment in an object whose contents are worthless. After an error no name is left.
pub(super) fn create(
    name: &str,
    file: OwnFile,
    geometry: Geometry,
    identity: &Identity,
    gate: Gate,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Segment, SegmentError> {
    // A server that was killed may have left second names of objects that were removed since. Their
    // memory may be needed for the new ones.
    release_names(name);
    let free = free_space();
    // A duplicate of the descriptor keeps the server's byte locked until the names of a failed
    // creation are removed.
    let _locked = file
        .duplicate()
        .map_err(SegmentError::system("keep", name))?;
    let made = prepare(&file, name, identity.k).and_then(|()| {
        allocate(&file, name, &geometry, progress)?;
        Superblock::new(&map(&file, &geometry, name)?).write(identity, random_incarnation()?);
        assemble(name.to_owned(), file, geometry, SERVER, Role::Server)
    });
    match made {
        Ok(segment) => {
            segment.attachment.tables.superblock.set_gate(gate);
            segment.attachment.tables.superblock.set_state(State::Ready);
            Ok(segment)
        }
        Err(error) => {
            // The caller gets the first error; errors of the clean-up are dropped.
            let _ = shm_unlink(name);
            names::remove_parts(name);
            Err(error.of_making(identity.k, overhead(identity.k), free.unwrap_or(0)))
        }
    }
}

/// Checks that there is room, and creates the copy area and the semaphores, before the object gets
/// its memory: so a name that another user holds is an error at once, however large the memory is.
fn prepare(file: &OwnFile, name: &str, k: u64) -> Result<(), SegmentError> {
    // An object left by an earlier start is emptied first, so that its size does not count as used.
    nix::unistd::ftruncate(file, 0).map_err(SegmentError::system("empty", name))?;
    names::remove_semaphores(name);
    check_space(name, k)?;
    open_copy_area(name, geteuid().as_raw(), true)?;
    (0..LOCKS).try_for_each(|lock| names::make_semaphore(name, lock))
}

/// Allocates all memory of the object now, as zeros: a full /dev/shm must be an error here and not
/// a SIGBUS later.
fn allocate(
    file: &OwnFile,
    name: &str,
    geometry: &Geometry,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<(), SegmentError> {
    let head = superblock::unfinished_head();
    // A write of so few bytes is not split.
    nix::sys::uio::pwrite(file, &head, 0)
        .map_err(SegmentError::system("write the header of", name))?;
    // `shm_open` masks the mode with the umask. A segment needs its mode whatever the caller's
    // umask is.
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

/// Refuses a segment that is too large before anything is allocated: a failed start would take
/// memory from others, and the kernel kills a process that exceeds the limit of its control group.
fn check_space(name: &str, k: u64) -> Result<(), SegmentError> {
    let (name, overhead) = (name.to_owned(), overhead(k));
    let needed = k + overhead + SERVER_MEMORY;
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
    let (needed, free) = (k + overhead, free_space());
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

/// Bytes that are free in /dev/shm; `None` if it has no limit or cannot be queried.
fn free_space() -> Option<u64> {
    let system = nix::sys::statvfs::statvfs("/dev/shm")
        .ok()
        .filter(|system| system.blocks() > 0)?;
    Some(system.blocks_available() * system.fragment_size())
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
