//! A snapshot is restored into memories with another k and another N: the same bytes, at the same
//! addresses.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use support::Cluster;
use support::random::Random;
use support::snapshots::{PAGE_BYTES, memory};

/// Three servers with 4 units each, four with 3, two with 6.
const UNIT: usize = 384 << 10;

#[test]
fn a_restore_gives_the_same_bytes_at_the_same_addresses_for_any_k_and_n() {
    let mut random = Random::new("layouts");
    let origin = Cluster::start(3, 4 * UNIT as u64);
    origin.start_agents();
    let bytes = memory(&mut random, 12 * UNIT / PAGE_BYTES);
    origin.write_all(&bytes);
    let file = origin.snapshot();
    for (n, units) in [(4, 3), (2, 6), (1, 12), (3, 5), (6, 2)] {
        let cluster = Cluster::start(n, (units * UNIT) as u64);
        cluster.start_agents();
        // No byte of this may be left after the restore.
        cluster.write_all(&vec![0xee; n * units * UNIT]);
        let said = cluster.restore(file.path(), "").prints().to_owned();
        println!(
            "3 x {} into {n} x {}: {}",
            4 * UNIT,
            units * UNIT,
            said.trim()
        );
        let found = cluster.read_all();
        assert!(
            found[..bytes.len()] == bytes,
            "{n} servers of {units} units"
        );
        assert!(
            found[bytes.len()..].iter().all(|byte| *byte == 0),
            "the rest of {n} x {units} is not zeros"
        );
    }
}
