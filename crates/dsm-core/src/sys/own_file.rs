//! Open files that a child made by `fork(2)` does not inherit.
//!
//! A child inherits the descriptors of its parent, and with them the open-file-description locks:
//! such a lock would still show a live parent after the parent's death. So every file whose lock
//! represents this process is in a table, and a handler of `pthread_atfork(3)` closes it in the
//! child. The child does not inherit the mapping either ([`super::mapping`]). A child that is made
//! in another way, to call `execve(2)` at once as `posix_spawn(3)` does, keeps the files until
//! then: they are all close-on-exec.

use super::cancellation::Uncancelled;
use nix::errno::Errno;
use nix::libc;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

/// The most such files that a process may have open: two for each segment, of as many segments as a
/// network map may have servers.
const MAX_FILES: usize = 2048;

/// A free entry of the table.
const FREE: i32 = -1;

static FILES: [AtomicI32; MAX_FILES] = [const { AtomicI32::new(FREE) }; MAX_FILES];

/// The number of forks between the process that was started and this one.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// Held while a descriptor is open and not in the table, or in the table and closed; while a
/// mapping is made that children still inherit; and during a fork. Not a mutex of std: the child
/// has to release it on behalf of the thread that forked.
static BUSY: AtomicBool = AtomicBool::new(false);

/// The result of installing the handlers.
static HANDLERS: OnceLock<Result<(), Errno>> = OnceLock::new();

/// A number that differs between a parent and a child made by fork.
#[inline]
pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// A file that is open in this process only, and is closed on drop.
pub(crate) struct OwnFile {
    file: ManuallyDrop<OwnedFd>,
    entry: usize,
    generation: u64,
}

impl OwnFile {
    /// Opens a file with `open`.
    ///
    /// # Errors
    /// That of `open`; EMFILE when there are too many such files, ENOMEM when the handlers cannot
    /// be installed.
    pub(crate) fn open(open: impl FnOnce() -> nix::Result<OwnedFd>) -> nix::Result<Self> {
        without_fork(|| {
            let file = open()?;
            let entry = FILES
                .iter()
                .position(|entry| entry.load(Ordering::Relaxed) == FREE)
                .ok_or(Errno::EMFILE)?;
            FILES[entry].store(file.as_raw_fd(), Ordering::Relaxed);
            Ok(Self {
                file: ManuallyDrop::new(file),
                entry,
                generation: generation(),
            })
        })
    }

    /// Another descriptor of the same open file, which keeps its locks alive.
    ///
    /// # Errors
    /// That of `fcntl(2)`; EMFILE when there are too many such files.
    pub(crate) fn duplicate(&self) -> nix::Result<Self> {
        Self::open(|| {
            self.as_fd()
                .try_clone_to_owned()
                .map_err(|error| error.raw_os_error().map_or(Errno::EMFILE, Errno::from_raw))
        })
    }

    /// Whether it belongs to the parent of this process: then it is closed here, and its number may
    /// belong to another file.
    #[inline]
    pub(crate) fn is_inherited(&self) -> bool {
        self.generation != generation()
    }
}

impl AsFd for OwnFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        debug_assert!(!self.is_inherited(), "a file of the parent process");
        self.file.as_fd()
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        if self.is_inherited() {
            return;
        }
        let _no_fork = NoFork::begin();
        FILES[self.entry].store(FREE, Ordering::Relaxed);
        // SAFETY: dropped once, here, and not used afterwards; this process opened it, by the check
        // above.
        unsafe { ManuallyDrop::drop(&mut self.file) };
    }
}

/// Runs `body` while no thread of this process can fork: during this time something may exist that
/// a child must not inherit.
///
/// # Errors
/// That of `body`; ENOMEM when the handlers cannot be installed.
pub(super) fn without_fork<T>(body: impl FnOnce() -> nix::Result<T>) -> nix::Result<T> {
    watch_forks()?;
    let _no_fork = NoFork::begin();
    body()
}

/// Makes sure that [`generation`] tells this process from its children from now on.
///
/// # Errors
/// ENOMEM when the handlers cannot be installed.
pub(crate) fn watch_forks() -> nix::Result<()> {
    *HANDLERS.get_or_init(register)
}

/// Blocks forks of other threads until it is dropped. The thread is not cancelled during this time:
/// the forks would block for ever.
struct NoFork {
    _uncancelled: Uncancelled,
}

impl NoFork {
    fn begin() -> Self {
        let no_fork = Self {
            _uncancelled: Uncancelled::begin(),
        };
        enter();
        no_fork
    }
}

impl Drop for NoFork {
    fn drop(&mut self) {
        leave();
    }
}

fn register() -> Result<(), Errno> {
    // SAFETY: the three handlers are functions without arguments that live for ever, and do only
    // what fork(2) allows in the child of a process with several threads: atomics and close(2).
    match unsafe {
        libc::pthread_atfork(
            Some(before_fork),
            Some(after_fork_in_parent),
            Some(after_fork_in_child),
        )
    } {
        0 => Ok(()),
        error => Err(Errno::from_raw(error)),
    }
}

fn enter() {
    while BUSY
        .compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed)
        .is_err()
    {
        std::thread::yield_now();
    }
}

fn leave() {
    BUSY.store(false, Ordering::Release);
}

extern "C" fn before_fork() {
    enter();
}

extern "C" fn after_fork_in_parent() {
    leave();
}

extern "C" fn after_fork_in_child() {
    for entry in &FILES {
        let descriptor = entry.swap(FREE, Ordering::Relaxed);
        if descriptor != FREE {
            // SAFETY: the descriptor was open in the parent and is so here; its `OwnFile` belongs
            // to another generation from now on, and does not use it any more.
            unsafe { libc::close(descriptor) };
        }
    }
    GENERATION.fetch_add(1, Ordering::Relaxed);
    leave();
}

#[cfg(test)]
mod tests {
    use crate::layout::Layout;
    use crate::segment::{Segment, Start};
    use crate::sys::forked::IdleChild;
    use std::ops::ControlFlow;

    /// Enough forks to hit a window of a thousandth of an opening.
    const FORKS: usize = 500;

    fn remove(name: &str) {
        for entry in std::fs::read_dir("/dev/shm").unwrap().flatten() {
            if entry
                .file_name()
                .to_string_lossy()
                .contains(&format!("{name}."))
            {
                // Another thread may have removed it.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Forks while `body` is called repeatedly, and returns what of the segment the children
    /// inherited.
    fn fork_beside(name: &str, body: impl Fn() + Sync) -> Vec<String> {
        let found = std::thread::scope(|scope| {
            let forks = scope.spawn(|| {
                (0..FORKS)
                    .flat_map(|_| IdleChild::fork().inherited(&format!("/{name}.")))
                    .collect()
            });
            while !forks.is_finished() {
                body();
            }
            forks.join().unwrap()
        });
        remove(name);
        found
    }

    #[test]
    fn a_child_forked_while_a_segment_is_attached_inherits_nothing_of_it() {
        let name = format!("dsmtest-{}-fork-attach", std::process::id());
        let layout = Layout::new(&name, 1 << 20, vec!["127.0.0.1:1".into()]).unwrap();
        let server = Segment::serve(&layout, 0, Start::Serve, &mut |_, _| {
            ControlFlow::Continue(())
        })
        .unwrap()
        .segment;
        let found = fork_beside(&name, || drop(Segment::attach(&layout, 0).unwrap()));
        drop(server);
        assert!(
            found.is_empty(),
            "{} of {FORKS} children: {:?}",
            found.len(),
            found.first()
        );
    }

    #[test]
    fn a_child_forked_while_a_segment_is_created_inherits_nothing_of_it() {
        let name = format!("dsmtest-{}-fork-serve", std::process::id());
        let layout = Layout::new(&name, 1 << 20, vec!["127.0.0.1:1".into()]).unwrap();
        let found = fork_beside(&name, || {
            drop(
                Segment::serve(&layout, 0, Start::Reset, &mut |_, _| {
                    ControlFlow::Continue(())
                })
                .unwrap(),
            );
        });
        assert!(
            found.is_empty(),
            "{} of {FORKS} children: {:?}",
            found.len(),
            found.first()
        );
    }
}
