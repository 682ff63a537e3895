//! A snapshot that cannot be written to its directory fails with a clear error, leaves nothing but
//! the older ones, and releases the agents. Old snapshots are deleted only after a new one was
//! written.
//!
//! Full and read-only file systems are mounted in a separate mount namespace, which takes root.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use dsm_snapshot::SnapshotFile;
use std::path::PathBuf;
use support::Cluster;
use support::dsmctl::Run;
use support::namespace::{Mounted, entered};
use support::random::Random;
use support::restores::retry_while_under_way;
use support::snapshots::names;

/// Bytes of each server, and of a disk that is too small for three of them.
const K: usize = 1 << 20;
const DISK: u64 = 2 << 20;

/// Exit code of sysexits(3): an input or output error.
const IO_ERROR: i32 = 74;

fn cluster() -> Cluster {
    let cluster = Cluster::start(3, K as u64);
    cluster.start_agents();
    cluster
}

/// Bytes that cannot be compressed.
fn noise(random: &mut Random, length: usize) -> Vec<u8> {
    (0..length / 8)
        .flat_map(|_| random.next().to_le_bytes())
        .collect()
}

/// The files in the snapshot directory, with their bytes.
fn files(cluster: &Cluster) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = cluster.snapshot_directory();
    names(&directory)
        .into_iter()
        .map(|name| directory.join(name))
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

/// Takes a snapshot, once by dsm-snapshot and once by dsmctl. Both must fail with all of the words
/// in the error, and change no file.
fn fails(cluster: &Cluster, words: &[&str]) {
    let before = files(cluster);
    let runs: [fn(&Cluster) -> Run; 2] = [
        |cluster| cluster.create_snapshot(&[]),
        |cluster| cluster.dsmctl("snapshot create"),
    ];
    for run in runs {
        let ended = retry_while_under_way(|| run(cluster));
        println!("{}", ended.stderr.lines().last().unwrap());
        ended.fails(IO_ERROR, words);
        assert!(
            files(cluster) == before,
            "the directory has changed: {:?}",
            names(&cluster.snapshot_directory())
        );
    }
}

/// Takes a snapshot to another directory, which must succeed with the same agents.
fn succeeds_elsewhere(cluster: &Cluster, memory: &[u8]) {
    let elsewhere = cluster.directory().join("elsewhere");
    let line = format!("snapshot create --output {}", elsewhere.display());
    retry_while_under_way(|| cluster.dsmctl(&line)).prints();
    assert!(cluster.export(&elsewhere) == memory);
}

#[test]
fn a_full_disk_is_a_clear_error_and_the_older_snapshots_are_intact() {
    if !entered(
        module_path!(),
        "a_full_disk_is_a_clear_error_and_the_older_snapshots_are_intact",
    ) {
        return;
    }
    let cluster = cluster();
    let _disk = Mounted::new(DISK, &cluster.snapshot_directory());
    cluster.write_all(b"little");
    let older = cluster.snapshot();
    let memory = noise(&mut Random::new("full"), 3 * K);
    cluster.write_all(&memory);
    let directory = cluster.snapshot_directory();
    fails(
        &cluster,
        &[
            "cannot write",
            directory.to_str().unwrap(),
            "No space left",
            "snapshot.directory",
        ],
    );
    SnapshotFile::open(older.path())
        .unwrap()
        .verify(|_, _| {})
        .unwrap();
    succeeds_elsewhere(&cluster, &memory);
}

#[test]
fn a_read_only_directory_is_a_clear_error() {
    if !entered(module_path!(), "a_read_only_directory_is_a_clear_error") {
        return;
    }
    let cluster = cluster();
    let disk = Mounted::new(DISK, &cluster.snapshot_directory());
    let memory = noise(&mut Random::new("read-only"), 3 * K);
    cluster.write_all(&memory[..4096]);
    cluster.snapshot();
    cluster.write_all(&memory);
    disk.make_read_only();
    let directory = cluster.snapshot_directory();
    fails(
        &cluster,
        &[
            "cannot create",
            directory.to_str().unwrap(),
            "Read-only file system",
            "snapshot.directory",
        ],
    );
    succeeds_elsewhere(&cluster, &memory);
}

#[test]
fn a_directory_that_is_not_there_is_a_clear_error() {
    let cluster = cluster();
    let memory = noise(&mut Random::new("missing"), 3 * K);
    cluster.write_all(&memory);
    let directory = cluster.snapshot_directory();
    std::fs::remove_dir(&directory).unwrap();
    for run in [
        cluster.create_snapshot(&[]),
        cluster.dsmctl("snapshot create"),
    ] {
        println!("{}", run.stderr.lines().last().unwrap());
        run.fails(
            IO_ERROR,
            &[
                directory.to_str().unwrap(),
                "No such file or directory",
                "snapshot.directory",
            ],
        );
        assert!(!directory.exists());
    }
    succeeds_elsewhere(&cluster, &memory);
}

#[test]
fn old_snapshots_are_deleted_only_when_a_new_one_is_there() {
    let cluster = Cluster::builder()
        .servers(2)
        .k(64 << 10)
        .snapshot("keep = 2")
        .start();
    cluster.start_agents();
    let foreign = cluster.snapshot_directory().join("notes.txt");
    std::fs::write(&foreign, "not a snapshot").unwrap();
    let first = cluster.snapshot().path().to_owned();
    let second = cluster.snapshot().path().to_owned();
    let kept = files(&cluster);

    // While an agent is down, a snapshot fails, and a partial one replaces no whole one.
    cluster.kill_agent(1);
    cluster
        .create_snapshot(&[])
        .fails(69, &["server 1", "--allow-partial"]);
    assert!(
        files(&cluster) == kept,
        "a snapshot that failed has changed the directory"
    );
    assert_eq!(
        cluster.spawn_master(&["--allow-partial"], &[]).wait().code,
        0
    );
    assert!(
        first.exists() && second.exists(),
        "a partial snapshot has replaced a whole one"
    );
    cluster.start_agent(1);
    // A snapshot in another directory does not count here.
    cluster
        .dsmctl(&format!(
            "snapshot create --output {}",
            cluster.directory().join("elsewhere").display()
        ))
        .prints();
    assert!(first.exists() && second.exists());

    let third = cluster.snapshot().path().to_owned();
    assert!(!first.exists() && second.exists() && third.exists() && foreign.exists());
}
