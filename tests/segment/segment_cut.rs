//! A cut shows one instant of the segment while writers continue.
#![allow(clippy::unwrap_used)]

use dsm_core::layout::PAGE;
use dsm_core::protocol::{AtomicOperation, Extent, Word};
use dsm_core::segment::{
    AccessError, CutEnded, CutPages, FreezeError, Leftover, Segment, SnapshotLock, Worker,
};
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv6Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::counts::count;
use support::own_process;
use support::segment::{TestMemoryName, attach, image};

const PAGES: u64 = 256;
const K: u64 = PAGES * PAGE;

/// How long a freeze may last on a machine that is busy with other tests.
const LEASE: Duration = Duration::from_secs(5);

/// How long a test waits for something that takes no time, on such a machine.
const TIMEOUT: Duration = Duration::from_secs(10);

fn with_segment(what: &str, body: impl FnOnce(&Segment, &mut SnapshotLock)) {
    let name = TestMemoryName::new(&format!("cut-{what}"));
    let segment = name.serve(K);
    body(&segment, &mut segment.snapshot_lock().unwrap().unwrap());
}

fn live(worker: &mut Worker) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(K).unwrap()];
    worker
        .read(Extent::new(0, K, K).unwrap(), &mut bytes)
        .unwrap();
    bytes
}

#[test]
fn a_cut_does_not_show_later_changes() {
    with_segment("still", |segment, lock| {
        let mut worker = segment.worker().unwrap();
        for round in 1..4_u8 {
            worker
                .fill(
                    Extent::new(10 * PAGE + 5, 40 * PAGE, K).unwrap(),
                    round,
                    None,
                )
                .unwrap();
            let before = live(&mut worker);
            let cut = lock.freeze(LEASE).unwrap().cut(K).unwrap();
            worker
                .write(
                    Extent::new(12 * PAGE - 3, 5000, K).unwrap(),
                    &[0xaa; 5000],
                    None,
                )
                .unwrap();
            worker
                .fill(Extent::new(48 * PAGE, 10 * PAGE, K).unwrap(), 0xbb, None)
                .unwrap();
            worker
                .copy(
                    Extent::new(0, PAGE, K).unwrap(),
                    Extent::new(30 * PAGE + 1, PAGE, K).unwrap(),
                    None,
                )
                .unwrap();
            worker
                .atomic(
                    Word::new(20 * PAGE, K).unwrap(),
                    AtomicOperation::Add(7),
                    None,
                )
                .unwrap();
            assert!(image(segment, cut).unwrap() == before, "round {round}");
            // Saved pages: 3, 3 with data (pages 48 to 50 of the fill), 2 and 1. Pages of zeros are
            // not copied.
            assert_eq!(lock.end_cut(cut).unwrap(), 9, "round {round}");
            assert_eq!(image(segment, cut), Err(CutEnded));
            worker
                .fill(Extent::new(50 * PAGE, 60 * PAGE, K).unwrap(), 0, None)
                .unwrap();
        }
    });
}

#[test]
fn a_change_that_waits_for_a_long_freeze_does_not_count_as_stalled() {
    with_segment("long-freeze", |segment, lock| {
        let frozen = lock.freeze(2 * LEASE).unwrap();
        std::thread::scope(|scope| {
            // Longer than a worker's slot, and more writers than large slots: the last ones wait
            // for the others.
            let writers: Vec<_> = (0..6)
                .map(|writer| {
                    scope.spawn(move || {
                        let extent = Extent::new(writer * 32 * PAGE, 30 * PAGE, K).unwrap();
                        segment
                            .worker()
                            .unwrap()
                            .write(extent, &vec![1; extent.length()], None)
                    })
                })
                .collect();
            // Longer than the timeout for stalled owners.
            std::thread::sleep(Duration::from_millis(1500));
            drop(frozen);
            writers
                .into_iter()
                .for_each(|writer| assert_eq!(writer.join().unwrap(), Ok(())));
        });
    });
}

/// Not a test by itself: a process that changes a page for each line of its input.
#[test]
fn writing_process() {
    let Ok(name) = std::env::var("WRITING") else {
        return;
    };
    let segment = attach(&name, K);
    let mut worker = segment.worker().unwrap();
    for _ in std::io::stdin().lines() {
        worker
            .fill(Extent::new(0, PAGE, K).unwrap(), 1, None)
            .unwrap();
        println!("written");
    }
}

/// Runs `body` with a function that has a page written by a process whose monotonic clock is
/// `ahead` seconds ahead.
fn with_writer(
    name: &str,
    ahead: &str,
    body: impl FnOnce(&mut dyn FnMut(), &mpsc::Receiver<String>),
) {
    let mut child = Command::new("unshare")
        .args(["--time", "--monotonic", ahead, "--fork", "--kill-child"])
        .arg(std::env::current_exe().unwrap())
        .args(own_process::arguments(module_path!(), "writing_process"))
        .env("WRITING", name)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, output) = (
        child.stdin.take().unwrap(),
        BufReader::new(child.stdout.take().unwrap()),
    );
    let (sender, written) = mpsc::channel();
    std::thread::spawn(move || {
        let lines = output.lines().map_while(Result::ok);
        lines
            .filter(|line| line.ends_with("written"))
            .all(|line| sender.send(line).is_ok())
    });
    let mut write = || writeln!(input).unwrap();
    // Wait until it has attached.
    write();
    written.recv_timeout(TIMEOUT).unwrap();
    body(&mut write, &written);
    drop(input);
    child.wait().unwrap();
}

#[test]
fn a_writer_in_another_time_namespace_knows_when_a_freeze_ends() {
    if !Command::new("unshare")
        .args(["--time", "--fork", "true"])
        .status()
        .is_ok_and(|status| status.success())
    {
        println!("SKIPPED: no time namespace here");
        return;
    }
    let name = TestMemoryName::new("cut-time-namespace");
    let segment = name.serve(K);
    let mut lock = segment.snapshot_lock().unwrap().unwrap();
    with_writer(&name.0, "86400", |write, written| {
        let frozen = lock.freeze(LEASE).unwrap();
        write();
        // It finds the gate frozen, and its clock is a day ahead.
        assert!(
            written.recv_timeout(Duration::from_millis(200)).is_err(),
            "it did not wait"
        );
        frozen.cut(K).unwrap();
        written.recv_timeout(TIMEOUT).unwrap();
    });
    // The kernel allows no clock that starts before the machine.
    if std::fs::read_to_string("/proc/uptime")
        .unwrap()
        .split('.')
        .next()
        .unwrap()
        .parse::<u64>()
        .unwrap()
        > 60
    {
        with_writer(&name.0, "-30", |write, written| {
            // As if its process died: only the lease ends the freeze.
            std::mem::forget(lock.freeze(Duration::from_millis(300)).unwrap());
            write();
            written.recv_timeout(TIMEOUT).unwrap();
        });
    }
}

#[test]
fn a_page_is_not_saved_after_the_cut_was_read() {
    with_segment("read", |segment, lock| {
        let mut worker = segment.worker().unwrap();
        worker.fill(Extent::new(0, K, K).unwrap(), 1, None).unwrap();
        let cut = lock.freeze(LEASE).unwrap().cut(0).unwrap();
        image(segment, cut).unwrap();
        // The copy area has no room for a single page, and needs none.
        worker.fill(Extent::new(0, K, K).unwrap(), 2, None).unwrap();
        assert_eq!(lock.end_cut(cut).unwrap(), 0);
    });
}

#[test]
fn a_full_copy_area_ends_the_cut_and_not_the_writer() {
    with_segment("full", |segment, lock| {
        let mut worker = segment.worker().unwrap();
        worker.fill(Extent::new(0, K, K).unwrap(), 1, None).unwrap();
        let cut = lock.freeze(LEASE).unwrap().cut(3 * PAGE).unwrap();
        worker
            .fill(Extent::new(0, 3 * PAGE, K).unwrap(), 2, None)
            .unwrap();
        assert_eq!(
            segment.read_cut(cut, 1..2, &mut [0; 4096]),
            Ok(CutPages::Bytes)
        );
        worker
            .fill(Extent::new(0, 4 * PAGE, K).unwrap(), 3, None)
            .unwrap();
        assert_eq!(image(segment, cut), Err(CutEnded));
        assert_eq!(&live(&mut worker)[..5], &[3; 5]);
        // What the owner of the cut would release, if it had not died.
        assert_eq!(segment.clean_up().ok(), Some(Some(Leftover::Cut)));
        assert_eq!(segment.clean_up().ok(), Some(None));
    });
}

/// Each writer writes its number i to three places one after the other. In any cut the later place
/// is never ahead of the earlier one. Page-by-page reads of the live memory would show it ahead.
#[test]
fn a_cut_under_load_never_shows_a_later_write_without_an_earlier_one() {
    const WRITERS: u64 = 3;
    let cuts: u64 = count(100, 1000);
    with_segment("ring", |segment, lock| {
        let stop = AtomicBool::new(false);
        let place = |writer: u64, step: u64| {
            Word::new((200 - step * 90 + writer) * PAGE + 8 * writer, K).unwrap()
        };
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let stop = &stop;
                scope.spawn(move || {
                    let mut worker = segment.worker().unwrap();
                    for i in 1_u64.. {
                        for step in 0..3 {
                            worker
                                .write(place(writer, step).extent(), &i.to_le_bytes(), None)
                                .unwrap();
                        }
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                });
            }
            let mut worker = segment.worker().unwrap();
            let mut torn_live_reads = 0;
            let ordered = |bytes: &[u8], writer: u64| {
                let at = |step| {
                    let offset = usize::try_from(place(writer, step).offset()).unwrap();
                    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
                };
                at(0) >= at(1) && at(1) >= at(2) && at(0) - at(2) <= 1
            };
            for number in 0..cuts {
                let cut = lock.freeze(LEASE).unwrap().cut(K).unwrap();
                let image = image(segment, cut).unwrap();
                lock.end_cut(cut).unwrap();
                let mut by_pages = vec![0; usize::try_from(K).unwrap()];
                for page in 0..PAGES {
                    let offset = usize::try_from(page * PAGE).unwrap();
                    worker
                        .read(
                            Extent::new(page * PAGE, PAGE, K).unwrap(),
                            &mut by_pages[offset..offset + 4096],
                        )
                        .unwrap();
                }
                for writer in 0..WRITERS {
                    assert!(ordered(&image, writer), "cut {number}, writer {writer}");
                    torn_live_reads += u32::from(!ordered(&by_pages, writer));
                }
            }
            stop.store(true, Ordering::Relaxed);
            println!(
                "{cuts} cuts in order; {torn_live_reads} of {} reads without a cut were not",
                WRITERS * cuts
            );
            assert!(torn_live_reads > 0, "the test cannot see what a cut is for");
        });
    });
}

#[test]
fn a_frozen_segment_can_be_read_but_not_changed_until_its_lease_expires() {
    with_segment("frozen", |segment, lock| {
        const SHORT: Duration = Duration::from_millis(200);
        let mut worker = segment.worker().unwrap();
        let started = Instant::now();
        let frozen = lock.freeze(SHORT).unwrap();
        live(&mut worker);
        let read = started.elapsed();
        worker.fill(Extent::new(0, 8, K).unwrap(), 1, None).unwrap();
        assert!(
            read < SHORT && started.elapsed() >= SHORT,
            "read after {read:?}"
        );
        assert!(
            matches!(frozen.cut(K), Err(FreezeError::LeaseExpired)),
            "a writer has continued"
        );
        // A freeze that is dropped does not wait for the end of its lease.
        drop(lock.freeze(LEASE).unwrap());
        worker.fill(Extent::new(0, 8, K).unwrap(), 2, None).unwrap();
        assert!(started.elapsed() < LEASE);
    });
}

#[test]
fn a_prepared_cut_shows_no_later_change_and_leaves_nothing_also_when_it_comes_too_late() {
    let name = TestMemoryName::new("cut-prepared");
    let segment = name.serve(K);
    let mut worker = segment.worker().unwrap();
    worker.fill(Extent::new(0, K, K).unwrap(), 1, None).unwrap();
    for too_late in [true, false] {
        let mut lock = segment.snapshot_lock().unwrap().unwrap();
        lock.prepare_cut(K).unwrap();
        let before = live(&mut worker);
        let frozen = lock.freeze(Duration::from_millis(200)).unwrap();
        if too_late {
            worker.fill(Extent::new(0, K, K).unwrap(), 2, None).unwrap();
            assert!(matches!(frozen.cut(K), Err(FreezeError::LeaseExpired)));
        } else {
            let cut = frozen.cut(K).unwrap();
            worker.fill(Extent::new(0, K, K).unwrap(), 3, None).unwrap();
            assert_eq!(image(&segment, cut).unwrap(), before);
            assert_eq!(lock.end_cut(cut).unwrap(), PAGES);
        }
        drop(lock);
        assert_eq!(segment.clean_up().unwrap(), None, "too late: {too_late}");
    }
}

#[test]
fn a_restore_that_changed_nothing_can_be_cancelled() {
    with_segment("cancel", |segment, lock| {
        let (mut worker, before) = (segment.worker().unwrap(), segment.incarnation());
        worker
            .fill(Extent::new(0, PAGE, K).unwrap(), 1, None)
            .unwrap();
        assert!(
            lock.restoration(Ipv6Addr::LOCALHOST).is_none(),
            "the segment is open"
        );
        lock.freeze(LEASE).unwrap().close().unwrap();
        let mut restoration = lock.restoration(Ipv6Addr::LOCALHOST).unwrap();
        restoration.zero(Extent::new(PAGE, K - PAGE, K).unwrap());
        assert_eq!(segment.access_error(), Some(AccessError::Restoring));
        assert!(restoration.cancel());
        assert_eq!(
            (segment.access_error(), segment.incarnation()),
            (None, before)
        );
        assert_eq!(&live(&mut worker)[..2], &[1; 2]);
        lock.freeze(LEASE).unwrap().close().unwrap();
        let mut restoration = lock.restoration(Ipv6Addr::LOCALHOST).unwrap();
        restoration.zero(Extent::new(0, K, K).unwrap());
        assert!(!restoration.cancel(), "a page has changed");
        assert_eq!(segment.access_error(), Some(AccessError::Restoring));
        assert_eq!(segment.restorer(), Some(Ipv6Addr::LOCALHOST));
        let restoration = lock.restoration(Ipv6Addr::LOCALHOST).unwrap();
        restoration.commit().unwrap();
        assert_eq!((segment.access_error(), segment.restorer()), (None, None));
    });
}

#[test]
fn a_snapshot_lock_released_before_a_change_opens_the_memory_as_it_was() {
    let name = TestMemoryName::new("cut-unchanged");
    let segment = name.serve(K);
    let (mut worker, before) = (segment.worker().unwrap(), segment.incarnation());
    worker
        .fill(Extent::new(0, PAGE, K).unwrap(), 1, None)
        .unwrap();
    let mut lock = segment.snapshot_lock().unwrap().unwrap();
    lock.freeze(LEASE).unwrap().close().unwrap();
    assert_eq!(
        worker.fill(Extent::new(0, 1, K).unwrap(), 2, None),
        Err(AccessError::Restoring)
    );
    drop(lock.restoration(Ipv6Addr::LOCALHOST).unwrap());
    drop(lock);
    assert_eq!(
        (
            segment.access_error(),
            segment.incarnation(),
            segment.restorer()
        ),
        (None, before, None)
    );
    assert_eq!(&live(&mut worker)[..2], &[1; 2]);
}

#[test]
fn the_next_freeze_waits_nine_times_as_long_as_the_last_one_lasted() {
    const FREEZE_TIME: Duration = Duration::from_millis(20);
    let name = TestMemoryName::new("cut-pause");
    let segment = name.serve(K);
    let mut lock = segment.snapshot_lock().unwrap().unwrap();
    assert_eq!(lock.pause(), Duration::ZERO);
    let began = Instant::now();
    let frozen = lock.freeze(LEASE).unwrap();
    std::thread::sleep(FREEZE_TIME);
    drop(frozen);
    let pause = lock.pause();
    // Delays of a busy machine are in both.
    assert!(
        pause + began.elapsed() >= 10 * FREEZE_TIME && pause <= 9 * began.elapsed(),
        "a pause of {pause:?}"
    );
    // Closing the memory without a change keeps writers out too, and another agent waits for the
    // pause.
    let began = Instant::now();
    lock.freeze(LEASE).unwrap().close().unwrap();
    std::thread::sleep(FREEZE_TIME);
    drop(lock);
    let segment = attach(&name.0, K);
    let mut lock = segment.snapshot_lock().unwrap().unwrap();
    let pause = lock.pause();
    assert!(
        pause + began.elapsed() >= 10 * FREEZE_TIME,
        "a pause of {pause:?}"
    );
    // An expired lease keeps no writer out.
    let frozen = lock.freeze(Duration::from_millis(1)).unwrap();
    std::thread::sleep(FREEZE_TIME);
    drop(frozen);
    assert_eq!(lock.pause(), Duration::ZERO);
}
