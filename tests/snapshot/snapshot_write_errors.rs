//! A snapshot that cannot be written is a clear error: no file has its name, and the older files
//! are unchanged.
//!
//! Full and read-only file systems are small tmpfs in a separate mount namespace. The test starts
//! itself there, which takes root.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use dsm_config::Compression;
use dsm_snapshot::{Destination, SnapshotFile, SnapshotWriter, WriteError};
use std::path::{Path, PathBuf};
use support::namespace::{Mounted, entered};
use support::random::Random;
use support::snapshots::{PAGE_BYTES, header, memory, names, write, zstd};

/// Pages of a memory that does not fit into the file system.
const PAGES: usize = 2048;

/// Bytes of the small file system.
const SIZE: u64 = 4 << 20;

/// Runs `body` in a directory that is a small file system, if the machine allows mounting one.
fn in_small_directory(test: &str, body: impl FnOnce(&Path, &Mounted)) {
    if entered(module_path!(), test) {
        let directory = tempfile::tempdir().unwrap();
        body(directory.path(), &Mounted::new(SIZE, directory.path()));
    }
}

fn older_snapshot(directory: &Path) -> (PathBuf, Vec<u8>) {
    let path = write(
        directory,
        &header(16, &[1]),
        &vec![7; 16 * PAGE_BYTES],
        zstd(),
    );
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

fn check_older(directory: &Path, (path, bytes): &(PathBuf, Vec<u8>)) {
    assert_eq!(
        names(directory),
        [path.file_name().unwrap().to_str().unwrap()]
    );
    assert!(
        std::fs::read(path).unwrap() == *bytes,
        "the older snapshot changed"
    );
    SnapshotFile::open(path).unwrap().verify(|_, _| {}).unwrap();
}

fn create(directory: &Path, pages: usize) -> Result<SnapshotWriter, WriteError> {
    SnapshotWriter::create(
        Destination::Directory(directory.into()),
        header(pages, &[1]),
        Compression::None,
    )
}

fn noise(pages: usize) -> Vec<u8> {
    let mut bytes = memory(&mut Random::new("noise"), pages);
    bytes.chunks_mut(PAGE_BYTES).for_each(|page| page[0] = 1);
    bytes
}

#[test]
fn a_full_disk_is_a_clear_error_and_older_snapshots_are_intact() {
    in_small_directory(
        "a_full_disk_is_a_clear_error_and_older_snapshots_are_intact",
        |directory, _| {
            let older = older_snapshot(directory);
            let mut writer = create(directory, PAGES).unwrap();
            let error = writer
                .add_pages(0, 0, &noise(PAGES))
                .unwrap_err()
                .to_string();
            println!("{error}");
            for word in [
                "cannot write",
                directory.to_str().unwrap(),
                "No space left",
                "Make room",
                "those before",
            ] {
                assert!(error.contains(word), "{error:?} does not say {word:?}");
            }
            let error = writer.finish().unwrap_err();
            assert!(matches!(error, WriteError::Broken(_)), "{error}");
            check_older(directory, &older);
        },
    );
}

#[test]
fn a_disk_that_is_full_only_at_the_end_is_a_clear_error() {
    in_small_directory(
        "a_disk_that_is_full_only_at_the_end_is_a_clear_error",
        |directory, _| {
            let older = older_snapshot(directory);
            // The last bytes are in a buffer: only finish() finds that there is no room.
            let mut writer = create(directory, 16).unwrap();
            writer.add_pages(0, 0, &noise(16)).unwrap();
            let ballast = directory.join("ballast");
            let full = std::fs::write(&ballast, vec![1; 8 << 20]).unwrap_err();
            assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
            let error = writer.finish().unwrap_err().to_string();
            println!("{error}");
            assert!(error.contains("No space left"), "{error}");
            std::fs::remove_file(ballast).unwrap();
            check_older(directory, &older);
        },
    );
}

#[test]
fn a_read_only_directory_is_a_clear_error() {
    in_small_directory(
        "a_read_only_directory_is_a_clear_error",
        |directory, file_system| {
            let older = older_snapshot(directory);
            file_system.make_read_only();
            let error = create(directory, 16).err().unwrap().to_string();
            println!("{error}");
            for word in [
                "cannot create",
                directory.to_str().unwrap(),
                "Read-only file system",
                "snapshot.directory",
            ] {
                assert!(error.contains(word), "{error:?} does not say {word:?}");
            }
            check_older(directory, &older);
        },
    );
}

#[test]
fn a_directory_that_is_not_there_is_a_clear_error() {
    let directory = tempfile::tempdir().unwrap();
    let error = create(&directory.path().join("nothing"), 16)
        .err()
        .unwrap()
        .to_string();
    println!("{error}");
    assert!(
        error.contains("nothing") && error.contains("Make the directory"),
        "{error}"
    );
}
