//! Named POSIX semaphores, see `sem_overview(7)`.

use nix::errno::Errno;
use nix::libc;
use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

unsafe extern "C" {
    /// In glibc since 2.30, not in the libc crate: `sem_timedwait` by a clock that cannot be set
    /// back. After such a step, a wait by the wall clock could last hours.
    fn sem_clockwait(
        semaphore: *mut libc::sem_t,
        clock: libc::clockid_t,
        deadline: *const libc::timespec,
    ) -> libc::c_int;
}

/// The directory in which the C library keeps shared-memory objects, and semaphores in files
/// `sem.NAME`: see `shm_overview(7)` and `sem_overview(7)`.
pub(crate) const DIRECTORY: &str = "/dev/shm";

/// Bytes of a semaphore, and of its file.
pub(crate) const SIZE: usize = size_of::<libc::sem_t>();

/// The content of the file of a new named semaphore with the value zero: `sem_open(3)` of glibc and
/// of musl writes exactly what `sem_init(3)` stores for a semaphore between processes.
pub(crate) fn fresh() -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    let mut semaphore = std::mem::MaybeUninit::<libc::sem_t>::zeroed();
    // SAFETY: `semaphore` is memory for a semaphore that no thread uses yet; the value is below
    // SEM_VALUE_MAX.
    unsafe { libc::sem_init(semaphore.as_mut_ptr(), 1, 0) };
    // SAFETY: both sides have SIZE bytes, and all are initialised: `zeroed` has set those that
    // sem_init leaves unchanged.
    unsafe { std::ptr::copy_nonoverlapping(semaphore.as_ptr().cast(), bytes.as_mut_ptr(), SIZE) };
    bytes
}

/// An open named semaphore.
pub(crate) struct Semaphore(NonNull<libc::sem_t>);

// SAFETY: semaphores are made for use by several threads and processes at once.
unsafe impl Send for Semaphore {}
// SAFETY: as above.
unsafe impl Sync for Semaphore {}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// A post was taken.
    Posted,
    /// The time passed.
    TimedOut,
}

impl Semaphore {
    /// Opens `name`, which begins with a slash and exists. Its file must have [`SIZE`] bytes: an
    /// access to a shorter one would fault.
    pub(crate) fn open(name: &CStr) -> nix::Result<Self> {
        // SAFETY: `name` is a C string; without O_CREAT there are no other arguments.
        let semaphore = unsafe { libc::sem_open(name.as_ptr(), 0) };
        // SEM_FAILED is a null pointer on Linux.
        NonNull::new(semaphore).map(Self).ok_or_else(Errno::last)
    }

    /// Adds one, unless the value is above zero: a single post wakes a sleeper, and each worker
    /// that takes the lock posts again, so more posts would only make later waits return for
    /// nothing.
    pub(crate) fn post_once(&self) {
        // Pairs with the fence in `wait`: either this thread sees that the last post was taken, or
        // the thread that took it sees what the caller has just written, and need not be woken
        // again.
        fence(Ordering::SeqCst);
        let mut value = 0;
        // SAFETY: the semaphore is open as long as `self`; `value` outlives the call.
        let known = unsafe { libc::sem_getvalue(self.0.as_ptr(), &raw mut value) } == 0;
        if !known || value <= 0 {
            // SAFETY: the semaphore is open as long as `self`. Overflow is the only error, and
            // means that it is posted.
            unsafe { libc::sem_post(self.0.as_ptr()) };
        }
    }

    /// Takes one post, or waits for one for at most `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) -> Wait {
        let deadline = monotonic_after(timeout);
        let result = loop {
            // SAFETY: the semaphore is open as long as `self`; `deadline` outlives the call.
            let result = unsafe {
                sem_clockwait(self.0.as_ptr(), libc::CLOCK_MONOTONIC, &raw const deadline)
            };
            // A signal does not end the wait: a profiler sends a thousand per second.
            if result == 0 || Errno::last() != Errno::EINTR {
                break result;
            }
        };
        fence(Ordering::SeqCst);
        if result == 0 {
            Wait::Posted
        } else {
            Wait::TimedOut
        }
    }
}

impl Drop for Semaphore {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, closed once.
        unsafe { libc::sem_close(self.0.as_ptr()) };
    }
}

fn monotonic_after(timeout: Duration) -> libc::timespec {
    let now = super::clock::timespec();
    let nanoseconds = now.tv_nsec + i64::from(timeout.subsec_nanos());
    // Timeouts here are far below 2^63 seconds.
    #[allow(clippy::cast_possible_wrap)]
    let seconds = now.tv_sec + timeout.as_secs() as i64 + nanoseconds / 1_000_000_000;
    libc::timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds % 1_000_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    use std::ffi::CString;
    use std::sync::mpsc;
    use std::time::Instant;

    extern "C" fn ignore(_signal: libc::c_int) {}

    #[test]
    fn a_signal_does_not_end_a_wait() {
        const TIMEOUT: Duration = Duration::from_millis(200);
        let action = SigAction::new(
            SigHandler::Handler(ignore),
            SaFlags::empty(),
            SigSet::empty(),
        );
        // SAFETY: the handler does nothing; nothing else in this process uses the signal, which is
        // ignored by default.
        unsafe { sigaction(Signal::SIGURG, &action) }.unwrap();
        let name = CString::new(format!("/dsmtest-{}-signal", std::process::id())).unwrap();
        // SAFETY: `name` is a C string, and the arguments are those that O_CREAT asks for.
        let made = unsafe { libc::sem_open(name.as_ptr(), libc::O_CREAT, 0o600, 0) };
        let semaphore = Semaphore(NonNull::new(made).unwrap());
        // SAFETY: `name` is a C string.
        unsafe { libc::sem_unlink(name.as_ptr()) };
        let (sender, receiver) = mpsc::channel();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                // SAFETY: returns a number.
                sender.send(unsafe { libc::pthread_self() }).unwrap();
                let began = Instant::now();
                let wait = semaphore.wait(TIMEOUT);
                (wait, began.elapsed())
            });
            let thread = receiver.recv().unwrap();
            while !waiter.is_finished() {
                // SAFETY: the thread is joined below, so its number stays its own.
                assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGURG) }, 0);
                std::thread::sleep(Duration::from_millis(1));
            }
            let (wait, elapsed) = waiter.join().unwrap();
            assert!(
                wait == Wait::TimedOut && elapsed >= TIMEOUT,
                "{wait:?} after {elapsed:?}"
            );
        });
    }
}
