//! Models of what processes do to a segment at the same time, checked by loom in every order of
//! their steps that the memory model allows. They use the functions of [`super::page_version`]; the
//! order of the steps is that of the code, in miniature. Each model is also run with a mistake in
//! it, and must find it.

use super::page_version::{LOCKED, WRITE_LOCKED, begin, end, is_readable};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering, fence};
use loom::thread;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The most times that a thread of a model is interrupted where it could continue. Models of three
/// threads take minutes without a bound; the mistakes below need two at most.
const MAX_INTERRUPTIONS: usize = 3;

/// Checks a model in every order of its steps. Its first thread only starts the others: loom never
/// interrupts it before it waits.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(MAX_INTERRUPTIONS);
    builder.check(model);
}

/// Checks a model in which `mistake` is made, and that loom finds it.
fn assert_found<M: Debug + Copy + Send + Sync + 'static>(mistake: M, model: fn(Option<M>)) {
    let found = catch_unwind(AssertUnwindSafe(|| check(move || model(Some(mistake)))));
    assert!(found.is_err(), "the model does not find {mistake:?}");
}

mod read {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum ReadMistake {
        /// The writer does not order the bytes after the odd version.
        NoFenceAfterOdd,
        /// The writer publishes the even version before the last bytes.
        EvenTooEarly,
        /// The writer does not order the even version after the bytes.
        RelaxedEven,
        /// The reader does not order its second load after the copy.
        NoFenceBeforeSecondLoad,
        /// The reader compares only the epoch and the flags.
        CounterIgnored,
    }

    /// A page of two words, which a reader copies without a lock while a writer changes it and a
    /// cut has just got the number 3.
    fn read_beside_a_write(mistake: Option<ReadMistake>) {
        let page = Arc::new((
            AtomicU64::new(end(1, 2)),
            AtomicU64::new(0),
            AtomicU64::new(0),
        ));
        let writer = {
            let page = Arc::clone(&page);
            thread::spawn(move || {
                let (version, first, second) = &*page;
                let old = version.load(Ordering::Relaxed);
                version.store(begin(old), Ordering::Relaxed);
                if mistake != Some(ReadMistake::NoFenceAfterOdd) {
                    fence(Ordering::Release);
                }
                let order = if mistake == Some(ReadMistake::RelaxedEven) {
                    Ordering::Relaxed
                } else {
                    Ordering::Release
                };
                let publish = || version.store(end(begin(old), 3), order);
                first.store(1, Ordering::Relaxed);
                if mistake == Some(ReadMistake::EvenTooEarly) {
                    publish();
                }
                second.store(1, Ordering::Relaxed);
                if mistake != Some(ReadMistake::EvenTooEarly) {
                    publish();
                }
            })
        };
        let reader = {
            let page = Arc::clone(&page);
            thread::spawn(move || {
                let (version, first, second) = &*page;
                let before = version.load(Ordering::Acquire);
                if is_readable(before) {
                    let copy = (
                        first.load(Ordering::Relaxed),
                        second.load(Ordering::Relaxed),
                    );
                    if mistake != Some(ReadMistake::NoFenceBeforeSecondLoad) {
                        fence(Ordering::Acquire);
                    }
                    let mut after = version.load(Ordering::Relaxed);
                    if mistake == Some(ReadMistake::CounterIgnored) && after >> 40 == 2 {
                        after = before;
                    }
                    if before == after {
                        assert_eq!(copy.0, copy.1, "half of a write");
                        // The new epoch is never seen with the old bytes.
                        assert_eq!(copy.0, u64::from(before >> 40 == 3));
                    }
                }
            })
        };
        writer.join().unwrap();
        reader.join().unwrap();
    }

    #[test]
    fn a_read_beside_a_write_is_whole() {
        check(|| read_beside_a_write(None));
    }

    #[test]
    fn the_model_finds_every_mistake() {
        for mistake in [
            ReadMistake::NoFenceAfterOdd,
            ReadMistake::EvenTooEarly,
            ReadMistake::RelaxedEven,
            ReadMistake::NoFenceBeforeSecondLoad,
            ReadMistake::CounterIgnored,
        ] {
            assert_found(mistake, read_beside_a_write);
        }
    }
}

mod flags {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum FlagMistake {
        /// Readers look at the counter only.
        ReaderIgnores,
        /// A writer changes a locked page.
        WriterIgnores,
        /// A write clears the lock.
        WriteClears,
    }

    /// A change of two pages at once, as a later version makes it: lock both pages, decide, change
    /// both, free them. Who has seen the decision must not find old bytes, and a writer must not
    /// come between the lock and the change.
    fn change_of_two_pages(mistake: Option<FlagMistake>) {
        let pages = Arc::new([
            (AtomicU64::new(2), AtomicU64::new(0)),
            (AtomicU64::new(2), AtomicU64::new(0)),
        ]);
        let decided = Arc::new(AtomicU64::new(0));
        let stripe = Arc::new(loom::sync::Mutex::new(()));
        let transaction = {
            let (pages, decided, stripe) = (pages.clone(), decided.clone(), stripe.clone());
            thread::spawn(move || {
                {
                    let _held = stripe.lock().unwrap();
                    for (version, _) in &*pages {
                        let locked = version.load(Ordering::Relaxed) | WRITE_LOCKED;
                        version.store(locked, Ordering::Release);
                    }
                }
                let found = pages[1].1.load(Ordering::Relaxed);
                decided.store(1, Ordering::Release);
                let _held = stripe.lock().unwrap();
                assert_eq!(pages[1].1.load(Ordering::Relaxed), found, "it was locked");
                for (version, bytes) in &*pages {
                    let old = version.load(Ordering::Relaxed);
                    version.store(begin(old), Ordering::Relaxed);
                    fence(Ordering::Release);
                    bytes.store(7, Ordering::Relaxed);
                    version.store(end(begin(old), 0) & !WRITE_LOCKED, Ordering::Release);
                }
            })
        };
        let writer = {
            let (pages, stripe) = (pages.clone(), stripe.clone());
            thread::spawn(move || {
                let _held = stripe.lock().unwrap();
                let (version, bytes) = &pages[1];
                let old = version.load(Ordering::Relaxed);
                let is_refused = old & LOCKED != 0;
                if mistake == Some(FlagMistake::WriteClears) {
                    // Even if it then does not touch the bytes.
                    version.store(end(begin(old), 0) & !LOCKED, Ordering::Release);
                } else if !is_refused || mistake == Some(FlagMistake::WriterIgnores) {
                    version.store(begin(old), Ordering::Relaxed);
                    fence(Ordering::Release);
                    bytes.fetch_or(8, Ordering::Relaxed);
                    version.store(end(begin(old), 0), Ordering::Release);
                }
            })
        };
        let reader = thread::spawn(move || {
            if decided.load(Ordering::Acquire) == 1 {
                let (version, bytes) = &pages[1];
                let before = version.load(Ordering::Acquire);
                let is_readable = if mistake == Some(FlagMistake::ReaderIgnores) {
                    before & 1 == 0
                } else {
                    is_readable(before)
                };
                if is_readable {
                    let copy = bytes.load(Ordering::Relaxed);
                    fence(Ordering::Acquire);
                    if version.load(Ordering::Relaxed) == before {
                        assert_eq!(copy & 7, 7, "bytes of before the decision");
                    }
                }
            }
        });
        transaction.join().unwrap();
        writer.join().unwrap();
        reader.join().unwrap();
    }

    #[test]
    fn a_locked_page_shows_nothing_and_takes_nothing() {
        check(|| change_of_two_pages(None));
    }

    #[test]
    fn the_model_finds_every_mistake() {
        for mistake in [
            FlagMistake::ReaderIgnores,
            FlagMistake::WriterIgnores,
            FlagMistake::WriteClears,
        ] {
            assert_found(mistake, change_of_two_pages);
        }
    }
}

mod repair {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum RepairMistake {
        /// The repairer releases the stripe before it has redone the write.
        ReleasedFirst,
        /// The repairer ends the intent before it has redone the write, and may die in between.
        EndedFirst,
        /// Two repairers do not exclude each other.
        NoByte,
    }

    /// A worker has died with a stripe and a committed intent. Two processes repair it: one of them
    /// may die after any step, and then the other one continues. A third one writes when the stripe
    /// is free.
    fn two_repairers(mistake: Option<RepairMistake>, dies_after: u32) {
        struct RepairedWorker {
            /// The lock on the byte of the dead participant.
            byte: AtomicU64,
            stripe: AtomicU64,
            kind: AtomicU64,
            bytes: AtomicU64,
            repaired: AtomicU64,
        }
        let segment = Arc::new(RepairedWorker {
            byte: AtomicU64::new(0),
            stripe: AtomicU64::new(1),
            kind: AtomicU64::new(1),
            bytes: AtomicU64::new(0),
            repaired: AtomicU64::new(0),
        });
        // Returns whether it has done everything.
        let repair = move |segment: &RepairedWorker, steps: u32| {
            let taken = segment
                .byte
                .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
            if taken.is_err() && mistake != Some(RepairMistake::NoByte) {
                return;
            }
            let redo = |segment: &RepairedWorker| {
                if segment.kind.load(Ordering::Acquire) != 0 {
                    segment.bytes.store(7, Ordering::Relaxed);
                }
            };
            let finish = |segment: &RepairedWorker| segment.kind.store(0, Ordering::Release);
            let release = |segment: &RepairedWorker| {
                if segment.stripe.load(Ordering::Acquire) == 1 {
                    segment.stripe.store(0, Ordering::Release);
                }
            };
            let order: [&dyn Fn(&RepairedWorker); 3] = match mistake {
                Some(RepairMistake::ReleasedFirst) => [&release, &redo, &finish],
                Some(RepairMistake::EndedFirst) => [&finish, &redo, &release],
                _ => [&redo, &finish, &release],
            };
            for step in order.into_iter().take(steps as usize) {
                step(segment);
            }
            if steps >= 3 {
                segment.repaired.store(1, Ordering::Release);
            }
            // The kernel releases the lock of a process that has died, too.
            segment.byte.store(0, Ordering::Release);
        };
        let first = {
            let segment = Arc::clone(&segment);
            thread::spawn(move || repair(&segment, dies_after))
        };
        let writer = {
            let segment = Arc::clone(&segment);
            thread::spawn(move || {
                let free =
                    segment
                        .stripe
                        .compare_exchange(0, 2, Ordering::Acquire, Ordering::Relaxed);
                if free.is_ok() {
                    assert_eq!(
                        segment.bytes.load(Ordering::Relaxed),
                        7,
                        "the write was lost"
                    );
                    segment.bytes.store(9, Ordering::Relaxed);
                    segment.stripe.store(0, Ordering::Release);
                }
                free.is_ok()
            })
        };
        let second = {
            let segment = Arc::clone(&segment);
            thread::spawn(move || repair(&segment, 3))
        };
        first.join().unwrap();
        second.join().unwrap();
        let has_written = writer.join().unwrap();
        // The next repairer finds the rest of what the one that died has left.
        if segment.repaired.load(Ordering::Acquire) == 0 {
            repair(&segment, 3);
        }
        let expected = if has_written { 9 } else { 7 };
        assert_eq!(segment.bytes.load(Ordering::Relaxed), expected);
        assert_eq!(segment.kind.load(Ordering::Relaxed), 0);
        assert_eq!(segment.stripe.load(Ordering::Relaxed), 0);
    }

    fn any_death(mistake: Option<RepairMistake>) {
        for dies_after in 0..=3 {
            check(move || two_repairers(mistake, dies_after));
        }
    }

    #[test]
    fn a_dead_worker_is_repaired_once_and_before_others_write() {
        any_death(None);
    }

    #[test]
    fn the_model_finds_every_mistake() {
        for mistake in [
            RepairMistake::ReleasedFirst,
            RepairMistake::EndedFirst,
            RepairMistake::NoByte,
        ] {
            let found = catch_unwind(|| any_death(Some(mistake)));
            assert!(found.is_err(), "{mistake:?}");
        }
    }
}

mod park {
    use super::*;
    use loom::sync::{Condvar, Mutex};

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum ParkMistake {
        /// A thread asks to be woken before it has parked its request.
        AskedFirst,
        /// The watcher looks at the gate before it takes the list of those to wake, and not after.
        TakenFirst,
    }

    const FROZEN: u64 = 1;

    /// A thread parks a request that it has found frozen and asks the watcher of the gate to wake
    /// it, while an agent ends the freeze. The watcher sleeps at the gate until it is open. The
    /// request must not stay parked.
    fn a_freeze_ends_beside_a_park(mistake: Option<ParkMistake>) {
        struct ParkedRequest {
            gate: Mutex<u64>,
            gate_changed: Condvar,
            to_wake: Mutex<u64>,
            has_parked: Condvar,
            parked: AtomicU64,
        }
        let shared = Arc::new(ParkedRequest {
            gate: Mutex::new(FROZEN),
            gate_changed: Condvar::new(),
            to_wake: Mutex::new(0),
            has_parked: Condvar::new(),
            parked: AtomicU64::new(0),
        });
        let watcher = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let mut to_wake = shared.to_wake.lock().unwrap();
                while *to_wake == 0 {
                    to_wake = shared.has_parked.wait(to_wake).unwrap();
                }
                let mut taken = 0;
                if mistake == Some(ParkMistake::TakenFirst) {
                    taken = std::mem::take(&mut *to_wake);
                }
                drop(to_wake);
                let mut gate = shared.gate.lock().unwrap();
                while *gate == FROZEN && mistake != Some(ParkMistake::TakenFirst) {
                    gate = shared.gate_changed.wait(gate).unwrap();
                }
                drop(gate);
                if mistake != Some(ParkMistake::TakenFirst) {
                    taken = std::mem::take(&mut *shared.to_wake.lock().unwrap());
                }
                if taken != 0 {
                    // The eventfd: the thread drives what is parked now, and parks it again if the
                    // memory is frozen.
                    let is_frozen = *shared.gate.lock().unwrap() == FROZEN;
                    if !is_frozen {
                        shared.parked.store(0, Ordering::Release);
                    }
                }
            })
        };
        let agent = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                *shared.gate.lock().unwrap() = 0;
                shared.gate_changed.notify_all();
            })
        };
        let parker = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let ask = || {
                    *shared.to_wake.lock().unwrap() = 1;
                    shared.has_parked.notify_one();
                };
                // It has found the gate frozen before; it may be open by now.
                if mistake == Some(ParkMistake::AskedFirst) {
                    ask();
                    shared.parked.store(1, Ordering::Release);
                } else {
                    shared.parked.store(1, Ordering::Release);
                    ask();
                }
            })
        };
        watcher.join().unwrap();
        agent.join().unwrap();
        parker.join().unwrap();
        assert_eq!(shared.parked.load(Ordering::Acquire), 0, "parked for ever");
    }

    #[test]
    fn a_parked_request_is_woken_whenever_the_freeze_ends() {
        check(|| a_freeze_ends_beside_a_park(None));
    }

    #[test]
    fn the_model_finds_every_mistake() {
        for mistake in [ParkMistake::AskedFirst, ParkMistake::TakenFirst] {
            assert_found(mistake, a_freeze_ends_beside_a_park);
        }
    }
}
