//! A local client is behind the gate: it waits while the segment is frozen, what it changes after the cut is not in it, and
//! it reads on throughout.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

mod support;

use dsm_client::DataPath;
use dsm_core::segment::Segment;
use std::sync::mpsc::channel;
use std::time::Duration;
use support::restores::PATIENCE;
use support::segment::image;
use support::{Cluster, local_client};

const K: u64 = 64 * 4096;

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
        assert_eq!(client.read(0, K).unwrap(), vec![1; usize::try_from(K).unwrap()], "reads go on");
        assert!(has_ended.recv_timeout(Duration::from_millis(200)).is_err(), "it did not wait");
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
    let began = std::time::Instant::now();
    client.write(0, b"x").unwrap();
    assert!(began.elapsed() < lease + Duration::from_secs(1), "{:?}", began.elapsed());
    drop(frozen);
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
