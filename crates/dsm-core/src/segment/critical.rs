//! Critical sections end in order, or with the process.
//!
//! A process that dies in one is repaired by the others. One that lives on after a thread of it was
//! unwound out of one is not: to the others, what it holds is held. So unwinding out of one ends
//! the process, also where panics are caught.

use std::io::Write;

/// A critical section that is not described by the locks that it holds.
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
        die();
    }
}

/// Locks that are held. Dropping it with any ends the process, see the module.
pub(super) struct Held {
    pub(super) stripes: u64,
    pub(super) large_slot: Option<usize>,
}

impl Held {
    pub(super) const NOTHING: Self = Self {
        stripes: 0,
        large_slot: None,
    };

    fn is_empty(&self) -> bool {
        self.stripes == 0 && self.large_slot.is_none()
    }
}

impl Drop for Held {
    /// Only reached when something panics: [`super::Worker`] forgets what it has given back.
    fn drop(&mut self) {
        if !self.is_empty() {
            die();
        }
    }
}

#[cold]
fn die() -> ! {
    // The panic has said why. Nothing to do about an error.
    let _ = writeln!(
        std::io::stderr(),
        "dsm: a thread was unwound while it changed the shared memory: the process ends here, so that others can repair it"
    );
    std::process::abort();
}
