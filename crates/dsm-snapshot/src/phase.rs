//! Phases of a snapshot or restore at which a test kills or stops the process, to prove that the
//! other processes continue and that nothing is left behind.
//!
//! The environment selects the phase, in debug builds only; in a release build every call is empty.

/// A phase in the work of a master or an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotPhase {
    /// Agent: its segment is frozen. Master: all segments are.
    Frozen,
    /// The cut was made.
    Cut,
    /// Some of the pages were sent, or received.
    Copying,
    /// Master: the file is complete and still has the name of a partial file.
    Written,
    /// Master: the file has its final name.
    Renamed,
    /// Agent: the memory is closed for a restore, and not changed yet.
    Shut,
    /// Agent: some of the memory was replaced.
    Restoring,
    /// Agent: all of the memory was replaced, and it is about to be opened.
    Opening,
}

#[cfg(debug_assertions)]
impl SnapshotPhase {
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

/// Kills this process if `DSM_TEST_DIE_AT` in the environment names the phase, and stops it with
/// SIGSTOP if `DSM_TEST_STOP_AT` does; only the first time that a phase is reached.
#[cfg(debug_assertions)]
pub fn reached(phase: SnapshotPhase) {
    use nix::sys::signal::{Signal, raise};
    use std::sync::atomic::{AtomicBool, Ordering};
    static ARMED: AtomicBool = AtomicBool::new(true);
    for (variable, signal) in [
        ("DSM_TEST_DIE_AT", Signal::SIGKILL),
        ("DSM_TEST_STOP_AT", Signal::SIGSTOP),
    ] {
        let named = std::env::var_os(variable).is_some_and(|name| name == phase.name());
        // Only once: after a test has continued the process, the next frame must not stop it again.
        if named && ARMED.swap(false, Ordering::Relaxed) {
            // SIGKILL does not return; SIGSTOP returns when the test sends SIGCONT.
            let _ = raise(signal);
        }
    }
}

/// Does nothing in a release build.
#[cfg(not(debug_assertions))]
#[inline]
pub fn reached(_: SnapshotPhase) {}

/// Whether a test asks for servers that are cut one by one instead of at one instant.
#[must_use]
pub fn gate_is_off() -> bool {
    cfg!(debug_assertions) && std::env::var_os("DSM_TEST_GATE").is_some_and(|value| value == "off")
}
