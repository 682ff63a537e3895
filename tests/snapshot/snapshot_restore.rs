//! A restore brings back the bytes of a snapshot, and clients that knew the memory before get an
//! error.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use dsm_client::{Error, ErrorKind};
use dsm_core::protocol::Code;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use support::random::Random;
use support::restores::TEST_TIMEOUT;
use support::snapshots::{PAGE_BYTES, damage, memory};
use support::{Cluster, client, is_error, wait_for};

const K: usize = 256 << 10;

/// Three servers, their agents, a random memory, and its snapshot.
fn snapshotted(random: &mut Random) -> (Cluster, Vec<u8>, PathBuf) {
    let cluster = Cluster::start(3, K as u64);
    cluster.start_agents();
    let bytes = memory(random, 3 * K / PAGE_BYTES);
    cluster.write_all(&bytes);
    let file = cluster.snapshot().path().to_owned();
    (cluster, bytes, file)
}

#[test]
fn a_restore_brings_back_every_byte_and_clients_that_knew_the_memory_get_an_error() {
    let mut random = Random::new("restore");
    let (cluster, bytes, file) = snapshotted(&mut random);
    assert!(
        cluster.read_all() == bytes && cluster.export(&file) == bytes,
        "the export differs from the memory"
    );

    let knew = client(&cluster);
    knew.read(0, 3 * K as u64).unwrap();
    let before = cluster.incarnations();
    cluster.write_all(&memory(&mut random, 3 * K / PAGE_BYTES));
    assert!(cluster.read_all() != bytes);
    let run = cluster.restore(&file, "--json");
    let printed = run.json();
    println!("{printed}");
    assert_eq!(
        (&printed["address"], &printed["length"]),
        (&0.into(), &(3 * K).into())
    );
    assert!(
        cluster.read_all() == bytes && cluster.export(&file) == bytes,
        "the memory differs from the one in the snapshot"
    );

    let after = cluster.incarnations();
    for server in 0..3 {
        assert!(
            before[server] != after[server],
            "server {server} has its old incarnation"
        );
        assert_eq!(
            printed["servers"][server]["incarnation"],
            after[server].as_str()
        );
        let address = (server * K) as u64;
        for error in [
            knew.read(address, 8).unwrap_err(),
            knew.write(address, b"x").unwrap_err(),
        ] {
            assert!(is_error(&error, ErrorKind::MemoryLost, server), "{error:?}");
        }
    }
    (0..3).for_each(|server| knew.accept_memory_loss(server));
    assert!(knew.read(0, 3 * K as u64).unwrap() == bytes);
    // The restored memory is like any other: it can be written, and be in a snapshot.
    cluster.write_all(b"after");
    assert!(
        cluster
            .export(cluster.snapshot().path())
            .starts_with(b"after")
    );
}

#[test]
fn a_restore_of_a_part_leaves_the_rest_as_it_is() {
    let mut random = Random::new("range");
    let (cluster, bytes, file) = snapshotted(&mut random);
    let other = memory(&mut random, 3 * K / PAGE_BYTES);
    cluster.write_all(&other);
    let before = cluster.incarnations();
    let knew = client(&cluster);
    knew.read(0, 3 * K as u64).unwrap();
    // From the middle of a page of server 0 to that of a page of server 1.
    let (address, length) = (K - 10_001, 25_000);
    cluster
        .restore(&file, &format!("--range {address} {length}"))
        .prints();
    let mut expected = other;
    expected[address..address + length].copy_from_slice(&bytes[address..address + length]);
    assert!(cluster.read_all() == expected);
    let after = cluster.incarnations();
    assert!(before[0] != after[0] && before[1] != after[1]);
    assert_eq!(before[2], after[2], "nothing of server 2 was restored");
    assert!(is_error(
        &knew.read(0, 8).unwrap_err(),
        ErrorKind::MemoryLost,
        0
    ));
    assert!(knew.read(2 * K as u64, K as u64).unwrap() == expected[2 * K..]);
}

#[test]
fn it_is_refused_while_a_program_writes_unless_it_is_forced() {
    let (cluster, bytes, file) = snapshotted(&mut Random::new("busy"));
    let before = cluster.incarnations();
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let client = client(&cluster);
            while !stop.load(Ordering::Relaxed) {
                client.write(K as u64 + 8, &written.load(Ordering::Relaxed).to_le_bytes())?;
                written.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), Error>(())
        });
        wait_for("the writer writes", TEST_TIMEOUT, || {
            written.load(Ordering::Relaxed) > 0
        });
        let run = cluster.restore(&file, "");
        println!("{}", run.stderr);
        run.fails(75, &["a program is writing", "server 1", "--force"]);
        let seen = written.load(Ordering::Relaxed);
        wait_for("the writer continues", TEST_TIMEOUT, || {
            written.load(Ordering::Relaxed) > seen
        });
        assert_eq!(cluster.incarnations(), before);

        cluster.restore(&file, "--force").prints();
        wait_for("the writer gets an error", TEST_TIMEOUT, || {
            writer.is_finished()
        });
        stop.store(true, Ordering::Relaxed);
        let error = writer.join().unwrap().unwrap_err();
        let told =
            error.kind() == ErrorKind::MemoryLost || error.refusal() == Some(Code::Restoring);
        assert!(told && error.server() == Some(1.into()), "{error:?}");
    });
    assert!(cluster.read_all() == bytes);
    assert_ne!(cluster.incarnations(), before);
}

#[test]
fn a_restore_that_is_not_possible_is_refused_and_changes_nothing() {
    let mut random = Random::new("refused");
    let (cluster, bytes, file) = snapshotted(&mut random);
    let partial = cluster.directory().join("partial");
    cluster.kill_agent(2);
    let run = cluster
        .spawn_master(
            &["--allow-partial", "--output", partial.to_str().unwrap()],
            &[],
        )
        .wait();
    assert_eq!(run.code, 0, "{}", run.stderr);
    cluster.start_agent(2);
    let damaged = cluster.directory().join("damaged");
    std::fs::copy(&file, &damaged).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    damage(&damaged, last as u64);
    let other = memory(&mut random, 3 * K / PAGE_BYTES);
    cluster.write_all(&other);
    let before = cluster.incarnations();

    let size = 3 * K;
    for (file, options, code, words) in [
        (
            &partial,
            String::new(),
            65,
            &["partial", "server 2", "--range"][..],
        ),
        (
            &partial,
            format!("--range {} 8", size - 8),
            65,
            &["server 2"],
        ),
        (
            &damaged,
            String::new(),
            65,
            &["nothing was restored", "damaged", "addresses"],
        ),
        // Also when the range itself is sound.
        (&damaged, "--range 0 8".to_owned(), 65, &["damaged"]),
        (&file, format!("--range {size} 8"), 65, &[&size.to_string()]),
        (
            &cluster.directory().join("nothing"),
            String::new(),
            66,
            &["nothing"],
        ),
    ] {
        let run = cluster.restore(file, &options);
        println!("{}", run.stderr.trim());
        run.fails(code, words);
    }
    let smaller = Cluster::start(2, K as u64);
    smaller.start_agents();
    let run = smaller.restore(&file, "");
    println!("{}", run.stderr.trim());
    run.fails(65, &[&size.to_string(), &(2 * K).to_string(), "--range"]);
    assert!(smaller.read_all().iter().all(|byte| *byte == 0));
    assert!(
        cluster.read_all() == other && cluster.incarnations() == before,
        "the memory was changed"
    );

    // The parts that a partial snapshot has can be restored.
    cluster
        .restore(&partial, &format!("--range 0 {}", 2 * K))
        .prints();
    assert!(cluster.read_all() == [&bytes[..2 * K], &other[2 * K..]].concat());
    smaller
        .restore(&file, &format!("--range 0 {}", 2 * K))
        .prints();
    assert!(smaller.read_all() == bytes[..2 * K]);
}
