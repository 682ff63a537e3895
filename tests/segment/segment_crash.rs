//! A participant is killed at every point inside its critical section; the others continue within a
//! second and find the write complete or absent.
#![cfg(debug_assertions)]
#![allow(clippy::unwrap_used)]

use dsm_core::layout::PAGE;
use dsm_core::protocol::{AtomicOperation, Extent, Word};
use dsm_core::segment::crash::{self, Action, Point};
use dsm_core::segment::{AccessError, Leftover, RequestId, Segment, Start, WORKERS, Worker};
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv6Addr;
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::panic::AssertUnwindSafe;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use support::own_process;
use support::segment::{TestMemoryName, attach, image, layout, serve};

const K: u64 = 64 * PAGE;

/// The longest wait of the others that the promise allows.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// How long a freeze may last.
const LEASE: Duration = Duration::from_millis(500);

/// Long enough for a large slot, over many pages, not aligned.
const LENGTH: u64 = 20 * PAGE;

const REQUEST: RequestId = RequestId {
    session: 7,
    sequence: 42,
};

/// Starts this test again in a separate process that does `task` and does `action` at `point`.
fn victim(name: &TestMemoryName, task: &str, point: Point, action: Action) -> Child {
    own_process::command(module_path!(), "victim_process")
        .env(
            "VICTIM",
            format!("{} {task} {} {action:?}", name.0, point as u8),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Not a test by itself: the body of the processes that [`victim`] starts.
#[test]
fn victim_process() {
    let Ok(words) = std::env::var("VICTIM") else {
        return;
    };
    let words: Vec<&str> = words.split(' ').collect();
    let point = Point::ALL
        .into_iter()
        .find(|point| (*point as u8).to_string() == words[2])
        .unwrap();
    let segment = if words[1] == "serve" {
        serve(words[0], K, Start::Serve)
    } else {
        attach(words[0], K)
    };
    if words[1] == "hoard" {
        let _workers: Vec<_> = std::iter::from_fn(|| segment.worker().ok()).collect();
        println!("hoarded");
        loop {
            std::thread::park();
        }
    }
    let mut worker = segment.worker().unwrap();
    if words[1] == "freeze" || words[1] == "cut" {
        let mut lock = segment.snapshot_lock().unwrap().unwrap();
        let frozen = lock.freeze(LEASE).unwrap();
        let _frozen = if words[1] == "cut" {
            frozen.cut(K).map(|_| None).unwrap()
        } else {
            Some(frozen)
        };
        println!("frozen");
        loop {
            std::thread::park();
        }
    }
    if words[1] == "restore" || words[1] == "shut" {
        let mut lock = segment.snapshot_lock().unwrap().unwrap();
        lock.freeze(LEASE).unwrap().close().unwrap();
        if words[1] == "shut" {
            println!("frozen");
            loop {
                std::thread::park();
            }
        }
        lock.restoration(Ipv6Addr::LOCALHOST)
            .unwrap()
            .write(extent(), &new_data());
        println!("frozen");
        loop {
            std::thread::park();
        }
    }
    if words[1] == "pause" {
        pauses(&mut worker, point);
    }
    let action = [Action::Die, Action::Stall, Action::Panic]
        .into_iter()
        .find(|of| format!("{of:?}") == words[3])
        .unwrap();
    crash::arm(point, action);
    let task = move || match words[1] {
        "write" | "serve" => worker.write(extent(), &new_data(), Some(REQUEST)).unwrap(),
        "add" => drop(
            worker
                .atomic(
                    Word::new(8, K).unwrap(),
                    AtomicOperation::Add(1),
                    Some(REQUEST),
                )
                .unwrap(),
        ),
        "copy" => worker
            .copy(
                Extent::new(40 * PAGE, LENGTH, K).unwrap(),
                extent(),
                Some(REQUEST),
            )
            .unwrap(),
        other => panic!("{other}"),
    };
    // As a program that survives its panics: it has released its worker before it blocks.
    if std::panic::catch_unwind(AssertUnwindSafe(task)).is_err() {
        println!("survived");
        loop {
            std::thread::park();
        }
    }
}

/// Reads page numbers from standard input. For each, pauses in a change of this page until the next
/// line.
fn pauses(worker: &mut Worker, point: Point) -> ! {
    let mut lines = std::io::stdin().lines();
    while let Some(Ok(page)) = lines.next() {
        crash::arm(point, Action::Pause);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                worker
                    .fill(page_extent(page.parse().unwrap()), 1, None)
                    .unwrap();
            });
            lines.next();
            crash::resume();
        });
        println!("resumed");
    }
    std::process::exit(0);
}

fn page_extent(page: u64) -> Extent {
    Extent::new(page * PAGE, PAGE, K).unwrap()
}

fn extent() -> Extent {
    Extent::new(100, LENGTH, K).unwrap()
}

fn new_data() -> Vec<u8> {
    (0..LENGTH)
        .map(|i| u8::try_from(i % 251).unwrap() + 1)
        .collect()
}

fn read_all(segment: &Segment) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(K).unwrap()];
    segment
        .worker()
        .unwrap()
        .read(Extent::new(0, K, K).unwrap(), &mut bytes)
        .unwrap();
    bytes
}

/// Changes and reads pages so that it meets every stripe that the dead process holds, and asserts
/// that this takes less than the promised time.
fn assert_continues(segment: &Segment, point: Point) {
    let started = Instant::now();
    let mut worker = segment.worker().unwrap();
    for page in 40..64 {
        worker
            .fill(Extent::new(page * PAGE + 4095, 1, K).unwrap(), 9, None)
            .unwrap();
    }
    let untouched = Extent::new(30 * PAGE, 8, K).unwrap();
    worker
        .copy(Extent::new(0, 8, K).unwrap(), untouched, None)
        .unwrap();
    worker.fill(untouched, 0, None).unwrap();
    for page in 21..40 {
        worker
            .fill(Extent::new(page * PAGE, 1, K).unwrap(), 0, None)
            .unwrap();
    }
    // Last, the pages of the dead process: each is read and written back under its stripe.
    for page in 0..21 {
        worker
            .atomic(
                Word::new(page * PAGE + 8, K).unwrap(),
                AtomicOperation::Or(0),
                None,
            )
            .unwrap();
    }
    assert!(
        started.elapsed() < MAX_WAIT,
        "{point:?}: the others waited {:?}",
        started.elapsed()
    );
}

#[test]
fn a_participant_killed_anywhere_leaves_a_complete_write_or_none() {
    let mut outcomes = [0, 0];
    for point in Point::ALL
        .into_iter()
        .filter(|point| *point != Point::Redone)
    {
        for task in ["write", "copy"] {
            let name = TestMemoryName::new(&format!("{task}{}", point as u8));
            let segment = name.serve(K);
            segment
                .worker()
                .unwrap()
                .fill(Extent::new(40 * PAGE, 24 * PAGE, K).unwrap(), 9, None)
                .unwrap();
            let before = read_all(&segment);
            let mut wanted = before.clone();
            assert!(
                !victim(&name, task, point, Action::Die)
                    .wait()
                    .unwrap()
                    .success(),
                "{point:?} was not reached"
            );

            let started = Instant::now();
            let seen_by_reader = read_all(&segment);
            assert!(
                started.elapsed() < MAX_WAIT,
                "{point:?}: a reader waited {:?}",
                started.elapsed()
            );
            assert_continues(&segment, point);

            let done = segment.last_executed(REQUEST.session) == REQUEST.sequence;
            if done {
                let data = if task == "copy" {
                    vec![9; new_data().len()]
                } else {
                    new_data()
                };
                wanted[100..100 + data.len()].copy_from_slice(&data);
            }
            assert!(
                read_all(&segment) == wanted,
                "{task} {point:?}: neither complete nor absent (done: {done})"
            );
            // A committed write that is not carried out yet may be invisible to a reader; half of
            // it must never be visible.
            assert!(
                seen_by_reader == wanted || seen_by_reader == before,
                "{task} {point:?}: a reader saw half a write"
            );
            assert_eq!(done, point != Point::Locked, "{task} {point:?}");
            assert_eq!(segment.repairs().0, 1, "{task} {point:?}");
            outcomes[usize::from(done)] += 1;
        }
    }
    println!("absent {}, complete {}", outcomes[0], outcomes[1]);
    assert!(outcomes.iter().all(|count| *count > 0));
}

#[test]
fn a_panic_inside_a_change_aborts_the_process_and_leaves_a_complete_write_or_none() {
    let action = Action::Panic;
    let assert_aborted = |mut child: Child, point| {
        let survived = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .any(|line| line.unwrap().ends_with("survived"));
        let _ = child.kill();
        assert!(
            !survived && child.wait().unwrap().signal() == Some(libc::SIGABRT),
            "{point:?}: it is still alive"
        );
    };
    for point in Point::ALL
        .into_iter()
        .filter(|point| *point != Point::Redone)
    {
        let name = TestMemoryName::new(&format!("panic{}", point as u8));
        let segment = name.serve(K);
        assert_aborted(victim(&name, "write", point, action), point);
        assert_continues(&segment, point);
        let found = &read_all(&segment)[100..100 + new_data().len()];
        assert!(
            found == new_data() || found.iter().all(|byte| *byte == 0),
            "{point:?}: half a write"
        );
    }
    // Also a repairer, which holds the byte of the dead participant.
    let name = TestMemoryName::new("panic-repairer");
    drop(name.serve(K));
    assert!(
        !victim(&name, "serve", Point::Committed, Action::Die)
            .wait()
            .unwrap()
            .success()
    );
    assert_aborted(victim(&name, "write", Point::Redone, action), Point::Redone);
    let observer = attach(&name.0, K);
    assert_continues(&observer, Point::Redone);
    assert_eq!(read_all(&observer)[100..100 + new_data().len()], new_data());
}

#[test]
fn an_add_killed_anywhere_counts_once_or_not_at_all_and_its_session_knows_which() {
    for point in Point::ALL
        .into_iter()
        .filter(|point| *point != Point::Redone)
    {
        let name = TestMemoryName::new(&format!("add{}", point as u8));
        let segment = name.serve(K);
        assert!(
            !victim(&name, "add", point, Action::Die)
                .wait()
                .unwrap()
                .success(),
            "{point:?} was not reached"
        );
        let mut worker = segment.worker().unwrap();
        let old = worker
            .atomic(Word::new(8, K).unwrap(), AtomicOperation::Add(0), None)
            .unwrap();
        let done = segment.last_executed(REQUEST.session) == REQUEST.sequence;
        assert_eq!(old, u64::from(done), "{point:?}");
        assert_eq!(
            segment.executed_result(REQUEST),
            done.then_some(0),
            "{point:?}"
        );
    }
}

#[test]
fn a_stalled_participant_that_is_killed_delays_no_other_participant() {
    for point in [
        Point::Locked,
        Point::Committed,
        Point::HalfCopied,
        Point::HalfUnlocked,
    ] {
        let name = TestMemoryName::new(&format!("stall{}", point as u8));
        let segment = name.serve(K);
        let mut child = victim(&name, "write", point, Action::Stall);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(
            lines.any(|line| line.unwrap().ends_with("stalled")),
            "{point:?}"
        );
        let others: Vec<_> = (0..4)
            .map(|_| {
                let segment = segment.clone();
                std::thread::spawn(move || assert_continues(&segment, point))
            })
            .collect();
        // Whether they already wait for the stalled process or have not begun: they have a second
        // from the kill on.
        child.kill().unwrap();
        child.wait().unwrap();
        others.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(segment.repairs().0, 1, "{point:?}");
    }
}

#[test]
fn an_owner_counts_as_stalled_after_a_second_and_is_waited_for_once() {
    let name = TestMemoryName::new("pause");
    let segment = name.serve(K);
    let mut child = victim(&name, "pause", Point::Committed, Action::Pause);
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let say = |word: &str| writeln!(child.stdin.as_ref().unwrap(), "{word}").unwrap();
    let mut worker = segment.worker().unwrap();

    say("0");
    assert!(lines.any(|line| line.ends_with("paused")));
    let pid = u64::from(child.id());
    let began = Instant::now();
    assert_eq!(
        worker.fill(page_extent(0), 2, None),
        Err(AccessError::PageLockTimeout { pid })
    );
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "refused after {:?}",
        began.elapsed()
    );
    // A thread of a server has other clients to serve: it must not wait a second again for an owner
    // that is known to be stalled.
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(
            worker.fill(page_extent(0), 2, None),
            Err(AccessError::PageLockTimeout { pid })
        );
    }
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "each waited again: {:?}",
        began.elapsed()
    );

    say("resume");
    assert!(lines.any(|line| line.ends_with("resumed")));
    // It has made progress since: its next critical section has only begun.
    say("1");
    assert!(lines.any(|line| line.ends_with("paused")));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| worker.fill(page_extent(1), 2, None));
        std::thread::sleep(Duration::from_millis(100));
        say("resume");
        assert_eq!(
            waiter.join().unwrap(),
            Ok(()),
            "refused for a stall that was over"
        );
    });
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn a_repairer_that_is_killed_is_followed_by_another() {
    let name = TestMemoryName::new("repairer");
    drop(name.serve(K));
    // A server dies with a committed write, and a participant that meets its stripes dies during
    // the repair.
    assert!(
        !victim(&name, "serve", Point::Committed, Action::Die)
            .wait()
            .unwrap()
            .success()
    );
    assert!(
        !victim(&name, "write", Point::Redone, Action::Die)
            .wait()
            .unwrap()
            .success(),
        "it repaired nothing"
    );
    let observer = attach(&name.0, K);
    assert_continues(&observer, Point::Redone);
    assert_eq!(observer.last_executed(REQUEST.session), REQUEST.sequence);
    assert_eq!(read_all(&observer)[100..100 + new_data().len()], new_data());
}

#[test]
fn a_stopped_repairer_is_named_and_a_server_starts_after_its_death() {
    let name = TestMemoryName::new("stopped-repairer");
    drop(name.serve(K));
    assert!(
        !victim(&name, "serve", Point::Committed, Action::Die)
            .wait()
            .unwrap()
            .success()
    );
    let mut repairer = victim(&name, "write", Point::Redone, Action::Stall);
    let mut lines = BufReader::new(repairer.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap().ends_with("stalled")),
        "it repaired nothing"
    );
    let other = attach(&name.0, K);
    let pid = u64::from(repairer.id());
    assert_eq!(
        other.worker().unwrap().fill(page_extent(1), 1, None),
        Err(AccessError::PageLockTimeout { pid })
    );
    let start = || {
        Segment::serve(&layout(&name.0, K), 0, Start::Serve, &mut |_, _| {
            ControlFlow::Continue(())
        })
    };
    let error = start().err().unwrap().to_string();
    assert!(
        error.contains(&format!("(pid {pid}) that repairs")),
        "{error}"
    );
    repairer.kill().unwrap();
    repairer.wait().unwrap();
    let segment = start().unwrap().segment;
    assert_eq!(read_all(&segment)[100..100 + new_data().len()], new_data());
    assert_continues(&segment, Point::Redone);
}

#[test]
fn a_second_server_is_refused_and_named() {
    let name = TestMemoryName::new("second");
    let _first = name.serve(K);
    let error = Segment::serve(&layout(&name.0, K), 0, Start::Serve, &mut |_, _| {
        ControlFlow::Continue(())
    })
    .err()
    .unwrap()
    .to_string();
    assert!(
        error.contains(&format!("pid {}", std::process::id())),
        "{error}"
    );
}

#[test]
fn memory_survives_a_restart_of_the_server_but_not_a_reset() {
    let name = TestMemoryName::new("survive");
    let segment = name.serve(K);
    let incarnation = segment.incarnation();
    segment
        .worker()
        .unwrap()
        .write(Extent::new(5, 5, K).unwrap(), b"hello", None)
        .unwrap();
    drop(segment);
    let again = name.serve(K);
    assert_eq!(again.incarnation(), incarnation);
    assert_eq!(&read_all(&again)[5..10], b"hello");
    assert_eq!(
        again.repairs(),
        (0, 0),
        "a server that left the table is not repaired"
    );
    let attached = attach(&name.0, K);
    drop(again);
    let reset = serve(&name.0, K, Start::Reset);
    assert_ne!(reset.incarnation(), incarnation);
    assert_eq!(&read_all(&reset)[5..10], &[0; 5]);
    assert!(
        !attached.is_ready() && reset.is_ready(),
        "a participant of the old object can see that it is retired"
    );
}

#[test]
fn workers_of_a_participant_that_died_idle_are_reused() {
    let name = TestMemoryName::new("idle");
    let segment = name.serve(K);
    let mut child = victim(&name, "hoard", Point::Locked, Action::Stall);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("hoarded")));
    let own: Vec<_> = std::iter::from_fn(|| segment.worker().ok()).collect();
    println!(
        "the other participant has {}, the server could have {}",
        WORKERS - own.len(),
        own.len()
    );
    assert!(own.len() > 32, "so many threads a server may have");
    assert!(
        own.len() < WORKERS / 2,
        "the other participant has all but what stays for a server"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(segment.worker().is_ok());
}

/// Starts a process that freezes, cuts or restores the segment and then blocks.
fn holder(name: &TestMemoryName, task: &str) -> Child {
    let mut child = victim(name, task, Point::Locked, Action::Stall);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("frozen")));
    child
}

#[test]
fn writers_continue_after_a_freeze_whose_process_dies_or_stalls() {
    for kill in [true, false] {
        let name = TestMemoryName::new(&format!("freeze{kill}"));
        let segment = name.serve(K);
        let mut child = holder(&name, "freeze");
        let writer = {
            let segment = segment.clone();
            std::thread::spawn(move || assert_continues(&segment, Point::Locked))
        };
        if !kill {
            writer.join().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        writer.join().unwrap();
    }
}

#[test]
fn a_cut_whose_process_dies_is_ended_and_its_copy_area_emptied() {
    let name = TestMemoryName::new("orphan");
    let segment = name.serve(K);
    let mut worker = segment.worker().unwrap();
    worker.fill(Extent::new(0, K, K).unwrap(), 1, None).unwrap();
    let mut child = holder(&name, "cut");
    let copies = || {
        std::fs::metadata(format!("/dev/shm/{}.0.copies", name.0))
            .unwrap()
            .len()
    };
    worker
        .fill(Extent::new(0, 3 * PAGE, K).unwrap(), 2, None)
        .unwrap();
    assert_eq!(copies(), 3 * PAGE);
    assert!(
        segment.snapshot_lock().unwrap().is_none() && segment.clean_up().unwrap().is_none(),
        "its process lives"
    );
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(segment.clean_up().unwrap(), Some(Leftover::Cut));
    assert_eq!(copies(), 0);
    worker.fill(Extent::new(0, K, K).unwrap(), 3, None).unwrap();
    assert_eq!(copies(), 0);
    assert!(segment.snapshot_lock().unwrap().is_some());
}

#[test]
fn a_restore_whose_process_dies_leaves_the_memory_closed_until_the_next_restore() {
    let name = TestMemoryName::new("restore");
    let segment = name.serve(K);
    let (mut worker, before) = (segment.worker().unwrap(), segment.incarnation());
    worker.fill(Extent::new(0, K, K).unwrap(), 1, None).unwrap();
    let mut child = holder(&name, "restore");
    child.kill().unwrap();
    child.wait().unwrap();
    let segment = attach(&name.0, K);
    assert_eq!(segment.access_error(), Some(AccessError::Restoring));
    let all = || Extent::new(0, K, K).unwrap();
    let mut bytes = vec![0; all().length()];
    assert_eq!(worker.read(all(), &mut bytes), Err(AccessError::Restoring));
    assert_eq!(worker.fill(extent(), 1, None), Err(AccessError::Restoring));
    let mut lock = segment.snapshot_lock().unwrap().unwrap();
    assert!(lock.freeze(LEASE).is_err());
    let mut restoration = lock.restoration(Ipv6Addr::LOCALHOST).unwrap();
    restoration.zero(all());
    restoration.write(extent(), &new_data());
    let incarnation = restoration.commit().unwrap();
    assert!(incarnation != before && segment.incarnation() == incarnation);
    assert_eq!(
        worker.read(all(), &mut bytes),
        Err(AccessError::Replaced),
        "it expected the old memory"
    );
    assert_eq!(worker.fill(extent(), 1, None), Err(AccessError::Replaced));
    let bytes = read_all(&segment);
    assert!(bytes[100..100 + new_data().len()] == new_data() && bytes[..100] == [0; 100]);
}

#[test]
fn a_restore_whose_process_dies_before_it_changes_a_byte_leaves_the_memory_as_it_was() {
    let name = TestMemoryName::new("unchanged");
    let segment = name.serve(K);
    let (mut worker, before) = (segment.worker().unwrap(), segment.incarnation());
    // In the first round the server finds it, in the second the next holder of the snapshot lock.
    for server_finds_it in [true, false] {
        worker.fill(Extent::new(0, K, K).unwrap(), 1, None).unwrap();
        let mut child = holder(&name, "shut");
        assert_eq!(worker.fill(extent(), 2, None), Err(AccessError::Restoring));
        assert_eq!(segment.clean_up().unwrap(), None, "its process lives");
        child.kill().unwrap();
        child.wait().unwrap();
        if server_finds_it {
            assert_eq!(segment.clean_up().unwrap(), Some(Leftover::ClosedMemory));
        } else {
            drop(attach(&name.0, K).snapshot_lock().unwrap().unwrap());
        }
        assert_eq!(
            (segment.access_error(), segment.incarnation()),
            (None, before)
        );
        assert!(read_all(&segment).iter().all(|byte| *byte == 1));
    }
}

#[test]
fn a_writer_killed_after_a_cut_leaves_the_cut_as_it_was() {
    for point in Point::ALL
        .into_iter()
        .filter(|point| *point != Point::Redone)
    {
        let name = TestMemoryName::new(&format!("cut{}", point as u8));
        let segment = name.serve(K);
        let mut worker = segment.worker().unwrap();
        worker.fill(Extent::new(0, K, K).unwrap(), 5, None).unwrap();
        let before = read_all(&segment);
        let mut lock = segment.snapshot_lock().unwrap().unwrap();
        let cut = lock.freeze(LEASE).unwrap().cut(K).unwrap();
        assert!(
            !victim(&name, "write", point, Action::Die)
                .wait()
                .unwrap()
                .success(),
            "{point:?} was not reached"
        );
        assert!(image(&segment, cut).unwrap() == before, "{point:?}");
        lock.end_cut(cut).unwrap();
    }
}
