//! A local client is behind the gate: it waits while the segment is frozen, what it changes after
//! the cut is not in it, and it reads on throughout.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use dsm_client::{DataPath, ErrorKind};
use dsm_core::segment::Segment;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use support::restores::PATIENCE;
use support::segment::image;
use support::{Cluster, is_error, local_client, wait_for};

const K: u64 = 64 * 4096;

/// What a call may take beyond its deadline.
const LATE: Duration = Duration::from_millis(500);

#[test]
fn a_local_change_waits_for_the_freeze_and_is_behind_the_cut() {
    let cluster = Cluster::start(1, K);
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let client = local_client(&cluster);
    assert_eq!(client.data_path(0).unwrap(), DataPath::Local);
    client.fill(0, K, 1).unwrap();

    let mut claim = segment.claim().unwrap().unwrap();
    // Longer than the test may take: only the cut ends it.
    let frozen = claim.freeze(PATIENCE).unwrap();
    let (began, has_begun) = channel();
    let (ended, has_ended) = channel();
    let cut = std::thread::scope(|scope| {
        scope.spawn(|| {
            began.send(()).unwrap();
            client.write(5 * 4096, b"behind the cut").unwrap();
            ended.send(()).unwrap();
        });
        has_begun.recv().unwrap();
        assert_eq!(
            client.read(0, K).unwrap(),
            vec![1; usize::try_from(K).unwrap()],
            "reads go on"
        );
        assert!(
            has_ended.recv_timeout(Duration::from_millis(200)).is_err(),
            "it did not wait"
        );
        let cut = frozen.cut(K).unwrap();
        has_ended.recv_timeout(PATIENCE).unwrap();
        assert_eq!(client.read(5 * 4096, 14).unwrap(), b"behind the cut");
        assert!(
            image(&segment, cut).unwrap() == vec![1; usize::try_from(K).unwrap()],
            "the cut shows what came after it"
        );
        cut
    });
    claim.end_cut(cut).unwrap();
    assert_eq!(client.status(0).unwrap().local.writes, 1);
}

#[test]
fn a_freeze_that_nobody_ends_holds_a_local_change_up_for_its_lease_only() {
    let cluster = Cluster::start(1, K);
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let client = local_client(&cluster);
    let lease = Duration::from_millis(300);
    let mut claim = segment.claim().unwrap().unwrap();
    let frozen = claim.freeze(lease).unwrap();
    let began = Instant::now();
    client.write(0, b"x").unwrap();
    assert!(
        began.elapsed() < lease + Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    drop(frozen);
}

#[test]
fn a_local_change_that_a_freeze_keeps_out_ends_by_its_deadline_and_takes_no_effect() {
    const TIMEOUT: Duration = Duration::from_millis(200);
    let cluster = Cluster::start(1, K);
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let client = local_client(&cluster).with_timeout(TIMEOUT);
    client.fill(0, K, 1).unwrap();
    let mut claim = segment.claim().unwrap().unwrap();
    let frozen = claim.freeze(PATIENCE).unwrap();
    let began = Instant::now();
    let error = client.write(5 * 4096, b"x").unwrap_err();
    let took = began.elapsed();
    assert!(
        (TIMEOUT..TIMEOUT + LATE).contains(&took),
        "{took:?}: {error}"
    );
    assert!(
        is_error(&error, ErrorKind::Unavailable, 0) && error.to_string().contains("snapshot"),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains("freeze_timeout") && !text.contains("network"),
        "{text}"
    );
    drop(frozen);
    assert_eq!(
        client.read(0, K).unwrap(),
        vec![1; usize::try_from(K).unwrap()]
    );
    client.write(5 * 4096, b"x").unwrap();
    assert_eq!(client.data_path(0).unwrap(), DataPath::Local);
}

#[test]
fn a_local_change_that_waits_for_the_copy_area_ends_by_its_deadline_and_leaves_the_snapshot() {
    /// Less than the time after which it ends the snapshot.
    const TIMEOUT: Duration = Duration::from_millis(100);
    /// More than is allocated ahead.
    const LONG: u64 = 16 << 20;
    let cluster = Cluster::start(1, LONG);
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let client = local_client(&cluster);
    client.fill(0, LONG, 1).unwrap();
    let mut claim = segment.claim().unwrap().unwrap();
    let cut = claim.freeze(PATIENCE).unwrap().cut(LONG).unwrap();
    let stops = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| segment.allocate_copies(cut, &stops));
        let copies = format!("/dev/shm/{}.0.copies", cluster.name());
        wait_for("pages are allocated", PATIENCE, || {
            std::fs::metadata(&copies).unwrap().len() > 0
        });
        stops.store(true, Ordering::Relaxed);
    });
    let began = Instant::now();
    // The first parts find room.
    let error = client
        .clone()
        .with_timeout(TIMEOUT)
        .fill(0, LONG, 2)
        .unwrap_err();
    let took = began.elapsed();
    assert!(took < TIMEOUT + LATE, "{took:?}: {error}");
    assert!(
        is_error(&error, ErrorKind::Unavailable, 0) && error.to_string().contains("snapshot"),
        "{error}"
    );
    assert!(
        image(&segment, cut).unwrap() == vec![1; usize::try_from(LONG).unwrap()],
        "the snapshot was given up"
    );
    claim.end_cut(cut).unwrap();
    let found = client.read(0, LONG).unwrap();
    let done = found.iter().take_while(|byte| **byte == 2).count();
    assert!(
        done > 0 && done < found.len() && found[done..].iter().all(|byte| *byte == 1),
        "{done} bytes"
    );
}

#[test]
fn a_look_for_changes_sees_what_a_local_client_does_also_if_it_does_the_same_twice() {
    let cluster = Cluster::start(1, K);
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let local = local_client(&cluster);
    local.write(0, b"x").unwrap();
    let before = segment.activity();
    assert_eq!(segment.activity(), before);
    local.read(0, 1).unwrap();
    assert_eq!(segment.activity(), before, "a read changes nothing");
    local.write(0, b"x").unwrap();
    assert_ne!(segment.activity(), before);
}
