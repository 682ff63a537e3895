//! Retention deletes old snapshots and nothing else: not the newest good one, not the file of a
//! running writer, not files of others.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use dsm_config::RetentionPolicy;
use dsm_snapshot::retention::Standing;
use dsm_snapshot::{
    Destination, Header, SnapshotWriter, apply_retention, list, remove_stale_partials,
};
use std::path::Path;
use support::snapshots::{CUT_TIME, PAGE_BYTES, fields, names, write, zstd};

const SECOND: u64 = 1_000_000_000;

/// The two newest, and for 30 days the last ones of memories that were lost.
fn keep() -> RetentionPolicy {
    let mut keep = RetentionPolicy::default();
    (keep.newest, keep.lost) = (2, 30);
    keep
}

/// Writes a snapshot whose cut is `second` seconds after the usual one. Returns its name.
fn snapshot(directory: &Path, second: u64, incarnations: &[u64]) -> String {
    let mut fields = fields(4, incarnations);
    fields.cut_time += second * SECOND;
    let memory = vec![1; incarnations.len() * 4 * PAGE_BYTES];
    let path = write(directory, &Header::new(fields).unwrap(), &memory, zstd());
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn old_snapshots_are_deleted_and_foreign_files_stay() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let good: Vec<_> = (0..5)
        .map(|second| snapshot(path, second, &[1, 2]))
        .collect();
    let partial = snapshot(path, 10, &[1, 0]);
    // A damaged file that is newer than all good ones.
    let damaged = snapshot(path, 11, &[1, 2]);
    let bytes = std::fs::read(path.join(&damaged)).unwrap();
    std::fs::write(path.join(&damaged), &bytes[..bytes.len() - 1]).unwrap();
    // Foreign files: with only the name of a snapshot, with only its contents, a link to one, an
    // empty one.
    std::fs::write(path.join("dsm-20200101T000000Z.dsnap"), "a letter").unwrap();
    std::fs::copy(path.join(&good[0]), path.join("copy.dsnap")).unwrap();
    std::os::unix::fs::symlink(&good[4], path.join("dsm-20200102T000000Z.dsnap")).unwrap();
    std::fs::write(path.join("dsm-20200103T000000Z.dsnap"), "").unwrap();

    let standings: Vec<_> = list(path, "test")
        .unwrap()
        .into_iter()
        .map(|file| file.standing)
        .collect();
    let mut expected = vec![Standing::Foreign; 3];
    expected.extend([Standing::Good; 5]);
    expected.extend([Standing::Partial, Standing::Bad]);
    assert_eq!(standings, expected);

    assert_eq!(
        apply_retention(path, "another system", keep(), u64::MAX).unwrap(),
        [""; 0]
    );
    assert_eq!(
        apply_retention(path, "test", keep(), u64::MAX).unwrap(),
        good[..3]
    );
    assert_eq!(
        apply_retention(path, "test", keep(), u64::MAX).unwrap(),
        [""; 0]
    );
    let mut left = vec![
        "copy.dsnap".to_owned(),
        "dsm-20200101T000000Z.dsnap".to_owned(),
        "dsm-20200102T000000Z.dsnap".to_owned(),
        "dsm-20200103T000000Z.dsnap".to_owned(),
    ];
    left.extend([good[3].clone(), good[4].clone(), partial, damaged]);
    left.sort();
    assert_eq!(names(path), left);
}

#[test]
fn the_last_snapshot_of_a_memory_that_was_lost_is_kept_longer_than_later_ones() {
    const DAY: u64 = 24 * 60 * 60;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let of = |seconds: std::ops::Range<u64>, incarnations: &[u64]| -> Vec<String> {
        seconds
            .map(|second| snapshot(path, second, incarnations))
            .collect()
    };
    let (before, after) = (of(0..3, &[1, 2]), of(3..7, &[1, 9]));
    let deleted = apply_retention(path, "test", keep(), u64::MAX).unwrap();
    assert_eq!(deleted, [&before[..2], &after[..2]].concat());
    assert_eq!(names(path), [&before[2..], &after[2..]].concat());
    // It is deleted after its days have passed.
    let later = of(30 * DAY + 2..30 * DAY + 4, &[1, 9]);
    assert_eq!(
        apply_retention(path, "test", keep(), u64::MAX).unwrap(),
        [&before[2..], &after[2..]].concat()
    );
    assert_eq!(names(path), later);
}

#[test]
fn the_partial_file_of_a_dead_process_is_removed_and_that_of_a_running_one_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let header = Header::new(fields(4, &[1])).unwrap();
    assert_eq!(header.cut_time(), CUT_TIME);
    let living =
        SnapshotWriter::create(Destination::Directory(path.into()), header.clone(), zstd())
            .unwrap();
    std::fs::write(
        path.join("dsm-20200101T000000Z.dsnap.partial"),
        &header.encode()[..50],
    )
    .unwrap();
    std::fs::write(path.join("dsm-20200102T000000Z.dsnap.partial"), "").unwrap();
    std::fs::write(path.join("dsm-20200103T000000Z.dsnap.partial"), "a letter").unwrap();
    std::fs::write(path.join("letter.partial"), "").unwrap();
    // Remains of `create --output`, which died after its header, and of `export`.
    std::fs::write(path.join("first.partial"), header.encode()).unwrap();
    std::fs::write(path.join(".memory.12.partial"), header.encode()).unwrap();
    let other = SnapshotWriter::create(
        Destination::File(path.join("second")),
        header.clone(),
        zstd(),
    )
    .unwrap();
    let begun = std::fs::read(path.join("second.partial")).unwrap();
    assert!(
        begun == header.encode(),
        "the partial file has its header from the beginning"
    );
    std::fs::create_dir(path.join("folder.partial")).unwrap();
    let mut removed = remove_stale_partials(path).unwrap();
    removed.sort();
    let dead = [
        "dsm-20200101T000000Z.dsnap.partial",
        "dsm-20200102T000000Z.dsnap.partial",
        "first.partial",
    ];
    assert_eq!(removed, dead);
    let kept = [
        "dsm-20200103T000000Z.dsnap.partial",
        "dsm-20261123T040000Z.dsnap.partial",
        "folder.partial",
    ];
    assert_eq!(
        names(path),
        [
            &[".memory.12.partial"],
            &kept[..],
            &["letter.partial", "second.partial"]
        ]
        .concat()
    );
    living.finish().unwrap();
    other.finish().unwrap();
    assert!(
        names(path).contains(&"dsm-20261123T040000Z.dsnap".to_owned())
            && path.join("second").exists()
    );
}

#[test]
fn the_next_run_reuses_the_name_of_a_dead_one() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("dsm-20261123T040000Z.dsnap.partial"),
        "dsmS",
    )
    .unwrap();
    assert_eq!(
        snapshot(directory.path(), 0, &[1]),
        "dsm-20261123T040000Z.dsnap"
    );
    assert_eq!(names(directory.path()), ["dsm-20261123T040000Z.dsnap"]);
}

#[test]
fn a_file_of_a_time_when_a_clock_was_ahead_replaces_no_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let now: Vec<_> = (0..4)
        .map(|second| snapshot(path, second, &[1, 2]))
        .collect();
    let ahead: Vec<_> = (0..3)
        .map(|second| snapshot(path, 1_000_000 + second, &[1, 2]))
        .collect();
    assert_eq!(
        apply_retention(path, "test", keep(), CUT_TIME + 3 * SECOND).unwrap(),
        now[..2]
    );
    assert_eq!(names(path), [&now[2..], &ahead].concat());
}

#[test]
fn snapshots_of_one_second_are_listed_in_the_order_of_their_cuts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let at = |nanoseconds| {
        let mut fields = fields(4, &[1]);
        fields.cut_time += nanoseconds;
        write(
            path,
            &Header::new(fields).unwrap(),
            &[1; 4 * PAGE_BYTES],
            zstd(),
        )
    };
    let deleted = at(100);
    let second = at(200);
    std::fs::remove_file(&deleted).unwrap();
    let last = at(300);
    assert_eq!(last, deleted, "its name is reused");
    let listed: Vec<_> = list(path, "test")
        .unwrap()
        .into_iter()
        .map(|file| file.path)
        .collect();
    assert_eq!(listed, [second, last]);
}
