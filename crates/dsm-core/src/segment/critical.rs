//! A critical section is left in good order, or the process ends.
//!
//! The other participants repair a process that dies in a critical section. They cannot repair a
//! live process one of whose threads was unwound out of one: they see its locks as held. So
//! unwinding out of a critical section aborts the process, even where the program catches panics.

use std::io::Write;

/// A critical section whose locks are not in a [`HeldLocks`], such as a repair.
pub(super) struct Critical(());

impl Critical {
    pub(super) fn begin() -> Self {
        Self(())
    }

    pub(super) fn end(self) {
        std::mem::forget(self);
    }
}

impl Drop for Critical {
    fn drop(&mut self) {
        abort();
    }
}

/// The locks that a worker holds. Dropping it while it is not empty aborts the process, see the
/// module.
pub(super) struct HeldLocks {
    pub(super) stripes: u64,
    pub(super) large_slot: Option<usize>,
}

impl HeldLocks {
    pub(super) const NONE: Self = Self {
        stripes: 0,
        large_slot: None,
    };

    fn is_empty(&self) -> bool {
        self.stripes == 0 && self.large_slot.is_none()
    }
}

impl Drop for HeldLocks {
    /// Finds locks only during a panic.
    fn drop(&mut self) {
        if !self.is_empty() {
            abort();
        }
    }
}

#[cold]
fn abort() -> ! {
    // The panic has printed its cause. An error of this write cannot be reported.
    let _ = writeln!(
        std::io::stderr(),
        "dsm: a thread was unwound while it changed the shared memory: this process aborts, so that other \
         processes can repair the memory"
    );
    std::process::abort();
}
