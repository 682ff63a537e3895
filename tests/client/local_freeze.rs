//! A local client passes the gate before a change: it waits while the segment is frozen, and its
//! changes after the cut are not in the snapshot. Its reads never wait.

// The lint exempts #[test] functions, not the helpers that they call.
#![allow(clippy::unwrap_used)]

use dsm_client::{DataPath, ErrorKind};
use dsm_core::segment::Segment;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use support::restores::TEST_TIMEOUT;
use support::segment::image;
use support::{Cluster, is_error, local_client, wait_for};

const K: u64 = 64 * 4096;

/// How much later than its deadline a call may end.
const MAX_DELAY: Duration = Duration::from_millis(500);

#[test]
fn a_local_change_waits_for_the_end_of_the_freeze_and_is_not_in_the_snapshot() {
    let cluster = Cluster::start(1, K);
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let client = local_client(&cluster);
    assert_eq!(client.data_path(0).unwrap(), DataPath::Local);
    client.fill(0, K, 1).unwrap();

    let mut snapshot_lock = segment.snapshot_lock().unwrap().unwrap();
    // The lease is longer than the test may take: only the cut ends the freeze.
    let frozen = snapshot_lock.freeze(TEST_TIMEOUT).unwrap();
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
            "a read does not wait"
        );
        assert!(
            has_ended.recv_timeout(Duration::from_millis(200)).is_err(),
            "the change did not wait"
        );
        let cut = frozen.cut(K).unwrap();
        has_ended.recv_timeout(TEST_TIMEOUT).unwrap();
        assert_eq!(client.read(5 * 4096, 14).unwrap(), b"behind the cut");
        assert!(
            image(&segment, cut).unwrap() == vec![1; usize::try_from(K).unwrap()],
            "the snapshot has a change that came after its cut"
        );
        cut
    });
    snapshot_lock.end_cut(cut).unwrap();
    assert_eq!(client.status(0).unwrap().local.writes, 1);
}

#[test]
fn a_freeze_that_is_never_ended_delays_a_local_change_by_its_lease_only() {
    let cluster = Cluster::start(1, K);
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let client = local_client(&cluster);
    let lease = Duration::from_millis(300);
    let mut snapshot_lock = segment.snapshot_lock().unwrap().unwrap();
    let frozen = snapshot_lock.freeze(lease).unwrap();
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
fn a_local_change_during_a_freeze_ends_by_its_deadline_without_effect() {
    const TIMEOUT: Duration = Duration::from_millis(200);
    let cluster = Cluster::start(1, K);
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let client = local_client(&cluster).with_timeout(TIMEOUT);
    client.fill(0, K, 1).unwrap();
    let mut snapshot_lock = segment.snapshot_lock().unwrap().unwrap();
    let frozen = snapshot_lock.freeze(TEST_TIMEOUT).unwrap();
    let began = Instant::now();
    let error = client.write(5 * 4096, b"x").unwrap_err();
    let took = began.elapsed();
    assert!(
        (TIMEOUT..TIMEOUT + MAX_DELAY).contains(&took),
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
fn a_local_change_that_waits_for_the_copy_area_ends_by_its_deadline_and_keeps_the_snapshot() {
    /// Less than the time after which a change that waits abandons the snapshot.
    const TIMEOUT: Duration = Duration::from_millis(100);
    /// More than the copy area allocates ahead.
    const LONG: u64 = 16 << 20;
    let cluster = Cluster::start(1, LONG);
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let client = local_client(&cluster);
    client.fill(0, LONG, 1).unwrap();
    let mut snapshot_lock = segment.snapshot_lock().unwrap().unwrap();
    let cut = snapshot_lock
        .freeze(TEST_TIMEOUT)
        .unwrap()
        .cut(LONG)
        .unwrap();
    let stops = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| segment.allocate_copies(cut, &stops));
        let copies = format!("/dev/shm/{}.0.copies", cluster.name());
        wait_for("pages to be allocated", TEST_TIMEOUT, || {
            std::fs::metadata(&copies).unwrap().len() > 0
        });
        stops.store(true, Ordering::Relaxed);
    });
    let began = Instant::now();
    // The copy area has room for the first parts.
    let error = client
        .clone()
        .with_timeout(TIMEOUT)
        .fill(0, LONG, 2)
        .unwrap_err();
    let took = began.elapsed();
    assert!(took < TIMEOUT + MAX_DELAY, "{took:?}: {error}");
    assert!(
        is_error(&error, ErrorKind::Unavailable, 0) && error.to_string().contains("snapshot"),
        "{error}"
    );
    assert!(
        image(&segment, cut).unwrap() == vec![1; usize::try_from(LONG).unwrap()],
        "the snapshot was abandoned"
    );
    snapshot_lock.end_cut(cut).unwrap();
    let found = client.read(0, LONG).unwrap();
    let done = found.iter().take_while(|byte| **byte == 2).count();
    assert!(
        done > 0 && done < found.len() && found[done..].iter().all(|byte| *byte == 1),
        "{done} bytes"
    );
}

#[test]
fn the_activity_of_a_segment_changes_with_every_local_write() {
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
