//! Phases of a snapshot in which a test makes the process die, to prove that the others go on and
//! nothing is left.
//!
//! Armed by the environment, in debug builds only; in a release build every call is empty.

/// A place in the work of a master or an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Agent: no writer is inside its segment. Master: all are frozen.
    Frozen,
    /// The cut was made.
    Cut,
    /// A part of the pages was sent, or received.
    Copying,
    /// Master: all is in the file, which has its first name still.
    Written,
    /// Master: the file has its name.
    Renamed,
    /// Agent: its memory is shut for a restore, and not changed.
    Shut,
    /// Agent: a part of the memory was replaced.
    Restoring,
    /// Agent: all of it was, and it is to be opened.
    Opening,
}

#[cfg(debug_assertions)]
impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Frozen => "frozen",
            Self::Cut => "cut",
            Self::Copying => "copying",
            Self::Written => "written",
            Self::Renamed => "renamed",
            Self::Shut => "shut",
            Self::Restoring => "restoring",
            Self::Opening => "opening",
        }
    }
}

/// Dies here if the environment's `DSM_TEST_DIE_AT` says so, and stands still if `DSM_TEST_STOP_AT`
/// does, the first time.
#[cfg(debug_assertions)]
pub fn reached(phase: Phase) {
    use nix::sys::signal::{Signal, raise};
    use std::sync::atomic::{AtomicBool, Ordering};
    static ARMED: AtomicBool = AtomicBool::new(true);
    for (variable, signal) in [
        ("DSM_TEST_DIE_AT", Signal::SIGKILL),
        ("DSM_TEST_STOP_AT", Signal::SIGSTOP),
    ] {
        let named = std::env::var_os(variable).is_some_and(|name| name == phase.name());
        // Once: a test that lets it go on must not wait for it at the next frame again.
        if named && ARMED.swap(false, Ordering::Relaxed) {
            // It does not return, or only when the test lets it go on.
            let _ = raise(signal);
        }
    }
}

/// Nothing in a release build.
#[cfg(not(debug_assertions))]
#[inline]
pub fn reached(_: Phase) {}

/// Whether servers are cut one by one instead of at one instant.
#[must_use]
pub fn gate_is_off() -> bool {
    cfg!(debug_assertions) && std::env::var_os("DSM_TEST_GATE").is_some_and(|value| value == "off")
}
