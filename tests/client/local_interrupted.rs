//! A local client whose server disables local access during a long request sends the rest of it
//! over TCP: no part is done twice.

// The lint exempts #[test] functions, not the helpers that they call.
#![allow(clippy::unwrap_used)]

use dsm_core::segment::Segment;
use support::{Cluster, local_client};

const MIB: u64 = 1 << 20;
const K: u64 = 64 * MIB;

/// A copy by this distance is not idempotent: a part that is done twice changes the result.
const SHIFT: u64 = 100_000;

/// The attempts to disable local access after the first part and before the last.
const TRIES: usize = 50;

#[test]
fn a_long_copy_continues_over_tcp_when_local_access_is_disabled() {
    let cluster = Cluster::start(1, K);
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    for (from, to) in [(0, SHIFT), (SHIFT, 0)] {
        let length = K - SHIFT;
        let interrupted = (0..TRIES).any(|_| {
            let client = local_client(&cluster);
            let mut model: Vec<u8> = (0..K).map(|address| (address % 251) as u8).collect();
            client.write(0, &model).unwrap();
            model.copy_within(
                usize::try_from(from).unwrap()..usize::try_from(from + length).unwrap(),
                usize::try_from(to).unwrap(),
            );
            let by_tcp = || client.status(0).unwrap().operations["copy"];
            let (local_before, tcp_before) = (segment.local_traffic().copies, by_tcp());
            std::thread::scope(|scope| {
                scope.spawn(|| client.copy(from..from + length, to).unwrap());
                while segment.local_traffic().copies < local_before + 5 {
                    std::hint::spin_loop();
                }
                segment.disable_local_access();
            });
            segment.enable_local_access(cluster.layout().segment_fingerprint(0));
            let (local, remote) = (
                segment.local_traffic().copies - local_before,
                by_tcp() - tcp_before,
            );
            println!("{local} parts were done locally, {remote} by TCP");
            assert_eq!(local + remote, length.div_ceil(MIB), "each part once");
            assert!(
                client.read(0, K).unwrap() == model,
                "{local} parts locally, {remote} by TCP"
            );
            remote > 0
        });
        assert!(interrupted, "the copy was never interrupted");
    }
}
