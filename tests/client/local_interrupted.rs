//! A local client that is turned away in the middle of a long request goes on by TCP with what is
//! left of it: no part is done twice.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use dsm_core::segment::Segment;
use support::{Cluster, local_client};

const MIB: u64 = 1 << 20;
const K: u64 = 64 * MIB;

/// A shift is not its own repetition: whatever part of it is done twice shows.
const SHIFT: u64 = 100_000;

/// Tries until the server closes its memory neither before the first part nor after the last.
const TRIES: usize = 50;

#[test]
fn a_long_copy_that_is_turned_away_in_the_middle_goes_on_where_it_was() {
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
                segment.refuse_local();
            });
            segment.admit_local(cluster.layout().fingerprint());
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
