//! For tests: children made by `fork(2)` while other threads of this process run, and what the
//! children have inherited.

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use std::fs;
use std::os::fd::AsRawFd;

/// Seconds after which a child ends even if the test that made it was killed.
const LONGEST_LIFE: u32 = 60;

/// A child that does nothing and is killed on drop.
pub(crate) struct IdleChild(Pid);

impl IdleChild {
    /// Returns when the child has run its handlers of `pthread_atfork(3)`.
    pub(crate) fn fork() -> Self {
        let (read, write) = nix::unistd::pipe().unwrap();
        // SAFETY: the child of a process with several threads may do what a signal handler may: it
        // calls alarm(2), write(2), pause(2) and _exit(2), and never returns from here.
        match unsafe { fork() }.unwrap() {
            ForkResult::Parent { child } => {
                let child = Self(child);
                drop(write);
                assert_eq!(nix::unistd::read(read, &mut [0]), Ok(1), "the child died");
                child
            }
            ForkResult::Child => {
                // SAFETY: they take and return numbers, except for the one byte that is written;
                // SIGALRM has no handler, so it kills the child.
                unsafe {
                    libc::alarm(LONGEST_LIFE);
                    libc::write(write.as_raw_fd(), c"!".as_ptr().cast(), 1);
                    libc::pause();
                    libc::_exit(0)
                }
            }
        }
    }

    /// Its mappings and descriptors of files whose path contains `name`.
    pub(crate) fn inherited(&self, name: &str) -> Vec<String> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.0)).unwrap();
        let mapped = maps
            .lines()
            .filter(|line| line.contains(name))
            .map(|line| format!("mapping {line}"));
        let open = fs::read_dir(format!("/proc/{}/fd", self.0)).unwrap();
        let open = open.filter_map(|entry| {
            let target = fs::read_link(entry.unwrap().path()).unwrap();
            let target = target.to_string_lossy();
            target
                .contains(name)
                .then(|| format!("descriptor of {target}"))
        });
        mapped.chain(open).collect()
    }
}

impl Drop for IdleChild {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGKILL).unwrap();
        waitpid(self.0, None).unwrap();
    }
}
