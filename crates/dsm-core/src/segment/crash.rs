//! Crash points: places where a test kills, stalls, pauses or panics its own process, to prove that
//! the other participants continue.
//!
//! They exist in debug builds only. In a release build every call is empty and nothing can be
//! armed.

/// A point inside a critical section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Point {
    /// The stripes are held, nothing is committed.
    Locked = 1,
    /// The intent is committed, no page is touched.
    Committed = 2,
    /// The pages' versions are odd and half of the bytes are in place.
    HalfCopied = 3,
    /// All bytes are in place, the versions are still odd.
    Copied = 4,
    /// The pages are done, the result is not in the session yet.
    PagesDone = 5,
    /// The intent is done, the stripes are still held.
    Done = 6,
    /// Some stripes are released, others not yet.
    HalfUnlocked = 7,
    /// A repair has redone a dead worker's write, the locks are still held.
    Redone = 8,
    /// An upgrade has begun: no program of the older format writes, and nothing is converted.
    UpgradeBegun = 9,
    /// An upgrade has converted half of the pages.
    UpgradeHalfDone = 10,
    /// An upgrade has converted everything, and the format is still the older one.
    UpgradeDone = 11,
}

impl Point {
    /// The points of a write and of its repair, in order.
    pub const ALL: [Self; 8] = [
        Self::Locked,
        Self::Committed,
        Self::HalfCopied,
        Self::Copied,
        Self::PagesDone,
        Self::Done,
        Self::HalfUnlocked,
        Self::Redone,
    ];

    /// The points of an upgrade, in order.
    pub const UPGRADE: [Self; 3] = [Self::UpgradeBegun, Self::UpgradeHalfDone, Self::UpgradeDone];
}

#[cfg(debug_assertions)]
mod armed {
    use super::Point;
    use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
    use std::time::Duration;

    /// What the process does at the armed point.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Action {
        /// It sends SIGKILL to itself.
        Die,
        /// It prints "stalled" to standard output, then blocks for ever.
        Stall,
        /// It prints "paused" to standard output, then waits for [`resume`].
        Pause,
        /// It panics, as a logger of the program may that is called there.
        Panic,
    }

    static ARMED: AtomicU8 = AtomicU8::new(0);
    static ACTION: AtomicU8 = AtomicU8::new(0);
    static PAUSED: AtomicBool = AtomicBool::new(false);
    static RESUMED: AtomicBool = AtomicBool::new(false);

    /// From now on, a thread of this process that reaches `point` does `action`.
    pub fn arm(point: Point, action: Action) {
        PAUSED.store(false, Ordering::SeqCst);
        RESUMED.store(false, Ordering::SeqCst);
        ACTION.store(action as u8, Ordering::SeqCst);
        ARMED.store(point as u8, Ordering::SeqCst);
    }

    /// Whether a thread waits for [`resume`].
    #[must_use]
    pub fn is_paused() -> bool {
        PAUSED.load(Ordering::SeqCst)
    }

    /// Ends a pause and disarms the point.
    pub fn resume() {
        ARMED.store(0, Ordering::SeqCst);
        RESUMED.store(true, Ordering::SeqCst);
    }

    pub(in crate::segment) fn reached(point: Point) {
        if ARMED.load(Ordering::Relaxed) != point as u8 {
            return;
        }
        let action = ACTION.load(Ordering::SeqCst);
        if action == Action::Die as u8 {
            // An error needs no handling: the test sees that the process did not die.
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        }
        if action == Action::Pause as u8 {
            println!("paused");
            PAUSED.store(true, Ordering::SeqCst);
            while !RESUMED.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            return;
        }
        assert_ne!(action, Action::Panic as u8, "armed");
        println!("stalled");
        loop {
            std::thread::park();
        }
    }
}

#[cfg(debug_assertions)]
pub(super) use armed::reached;
#[cfg(debug_assertions)]
pub use armed::{Action, arm, is_paused, resume};

#[cfg(not(debug_assertions))]
#[inline]
pub(super) fn reached(_point: Point) {}
