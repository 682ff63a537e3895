//! The operation log of a running server: a complete line per operation, rotation, and
//! uninterrupted service when the disk fails.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use dsm_client::{Client, CompareAndSwap};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use support::wire::TEST_TIMEOUT;
use support::{Cluster, client, wait_for};

const K: u64 = 1 << 20;

/// A cluster of two servers that log to a separate directory; the directory.
fn logging(operations: &str) -> (Cluster, PathBuf) {
    let cluster = Cluster::builder().servers(2).k(K).create();
    let directory = cluster.directory().join("log");
    std::fs::create_dir(&directory).unwrap();
    let path = cluster.config_path();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        format!(
            "{text}\n[log]\noperations = {operations:?}\ndirectory = \"{}\"\n",
            directory.display()
        ),
    )
    .unwrap();
    (cluster, directory)
}

fn start(cluster: &Cluster) -> Client {
    cluster.start_server(0);
    cluster.start_server(1);
    client(cluster)
}

/// Every line of every file in the folder.
fn lines(directory: &Path) -> Vec<String> {
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    texts
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// Waits for the one line whose fields from the third on begin with `words`, and returns its
/// fields.
fn wait_for_line(directory: &Path, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    wait_for(&format!("a line with {words:?}"), TEST_TIMEOUT, || {
        found = lines(directory)
            .iter()
            .map(|line| {
                line.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .filter(|fields| {
                fields.len() >= 2 + words.len()
                    && fields[2..].iter().zip(words).all(|(a, b)| a == b)
            })
            .collect();
        !found.is_empty()
    });
    assert_eq!(found.len(), 1, "one operation, one line: {found:?}");
    found.remove(0)
}

/// An address as the log shows it.
fn hexadecimal(address: u64) -> String {
    format!("{address:#018x}")
}

#[test]
fn each_operation_has_a_line_with_all_its_facts() {
    let (cluster, directory) = logging("all");
    let client = start(&cluster);
    // On the second server, so that a global address differs from an offset.
    let base = K + 4096;
    client.write(base, b"hello").unwrap();
    client.read(base, 5).unwrap();
    client.fill(base + 64, 32, 7).unwrap();
    client.fetch_add(base + 128, 1).unwrap();
    client
        .compare_and_swap(
            base + 136,
            CompareAndSwap {
                expected: 99,
                new: 1,
            },
        )
        .unwrap();
    client.copy(base..base + 5, base + 256).unwrap();
    for (operation, address, length) in [
        ("write", base, 5),
        ("read", base, 5),
        ("fill", base + 64, 32),
        ("fetch-add", base + 128, 8),
        ("compare-and-swap", base + 136, 8),
        ("copy", base + 256, 5),
    ] {
        let fields = wait_for_line(
            &directory,
            &[operation, &hexadecimal(address), &length.to_string()],
        );
        println!("{}", fields.join(" "));
        assert_eq!(fields.len(), 7, "{fields:?}");
        assert!(
            fields[0].starts_with("20") && fields[0].contains('T'),
            "no time: {fields:?}"
        );
        assert!(fields[1].contains("127."), "no client: {fields:?}");
        assert_eq!(fields[5], "ok", "{fields:?}");
        assert!(
            fields[6].parse::<u64>().is_ok(),
            "no microseconds: {fields:?}"
        );
    }
}

#[test]
fn a_refused_operation_has_a_line_with_its_outcome() {
    let (cluster, directory) = logging("all");
    let _client = start(&cluster);
    let mut wire = support::wire::Wire::greeted(cluster.layout(), 1);
    let mut header =
        dsm_core::protocol::RequestHeader::new(dsm_core::protocol::Opcode::FetchAdd, 1);
    header.offset = 4.into();
    wire.send(zerocopy::IntoBytes::as_bytes(&header));
    wire.reply()
        .assert_refused(dsm_core::protocol::Code::Unaligned, &["4"]);
    let fields = wait_for_line(&directory, &["fetch-add", &hexadecimal(K + 4)]);
    println!("{}", fields.join(" "));
    assert_eq!(fields[5].to_lowercase(), "unaligned", "{fields:?}");
}

#[test]
fn writes_only_leaves_the_reads_out() {
    let (cluster, directory) = logging("writes");
    let client = start(&cluster);
    client.read(0, 5).unwrap();
    client.write(0, b"hello").unwrap();
    client.read(0, 5).unwrap();
    client.fetch_add(64, 1).unwrap();
    wait_for_line(&directory, &["fetch-add"]);
    wait_for_line(&directory, &["write"]);
    let reads = lines(&directory)
        .iter()
        .filter(|line| line.split_whitespace().any(|word| word == "read"))
        .count();
    assert_eq!(reads, 0, "{:?}", lines(&directory));
}

/// The log files of the folder.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

fn written(client: &Client) -> u64 {
    client.status(0).unwrap().operation_log.written
}

fn lost(client: &Client) -> u64 {
    client.status(0).unwrap().operation_log.lost
}

#[test]
fn renaming_and_sighup_rotate_without_losing_a_line() {
    let (cluster, directory) = logging("writes");
    let client = start(&cluster);
    let rotations = 5;
    for rotation in 0..rotations {
        for place in 0..100 {
            client.write((rotation * 100 + place) * 8, &[1; 8]).unwrap();
        }
        wait_for("the lines are written", TEST_TIMEOUT, || {
            written(&client) >= (rotation + 1) * 100
        });
        for path in files(&directory) {
            if path.extension().is_none_or(|extension| extension != "old") {
                std::fs::rename(&path, format!("{}.{rotation}.old", path.display())).unwrap();
            }
        }
        cluster.signal(0, Signal::SIGHUP);
        cluster.signal(1, Signal::SIGHUP);
        let fresh = || {
            files(&directory)
                .iter()
                .any(|path| path.extension().is_none_or(|extension| extension != "old"))
        };
        wait_for("a new file", TEST_TIMEOUT, fresh);
    }
    let found = lines(&directory)
        .iter()
        .filter(|line| line.contains(" write "))
        .count();
    assert_eq!(found as u64, rotations * 100);
    assert_eq!(lost(&client), 0);
}

/// Writes until the status counts a lost line; every write must succeed.
fn write_until_lost(client: &Client, what: &str) {
    let before = lost(client);
    wait_for(what, TEST_TIMEOUT, || {
        (0..50).for_each(|place| client.write(place * 8, &[2; 8]).unwrap());
        lost(client) > before
    });
}

/// Writes until the status counts a written line again.
fn write_until_written(client: &Client, what: &str) {
    let before = written(client);
    wait_for(what, TEST_TIMEOUT, || {
        client.write(0, &[3; 8]).unwrap();
        written(client) > before
    });
}

#[test]
fn a_full_disk_loses_lines_and_no_service() {
    let (cluster, directory) = logging("writes");
    let client = start(&cluster);
    write_until_written(&client, "the log works");
    // The files become /dev/full, where every write is ENOSPC.
    for path in files(&directory) {
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    }
    cluster.signal(0, Signal::SIGHUP);
    write_until_lost(&client, "lost lines are counted");
    wait_for("the loss is logged", TEST_TIMEOUT, || {
        cluster.stderr(0).contains("lost")
    });
    println!(
        "{} lines lost; {}",
        lost(&client),
        cluster.stderr(0).lines().last().unwrap_or("")
    );
    for path in files(&directory) {
        std::fs::remove_file(&path).unwrap();
    }
    cluster.signal(0, Signal::SIGHUP);
    write_until_written(&client, "the log works again");
    assert!(!files(&directory).is_empty());
}

#[test]
fn a_log_directory_that_is_removed_loses_lines_and_no_service() {
    let (cluster, directory) = logging("writes");
    let client = start(&cluster);
    write_until_written(&client, "the log works");
    std::fs::remove_dir_all(&directory).unwrap();
    cluster.signal(0, Signal::SIGHUP);
    write_until_lost(&client, "lost lines are counted");
    wait_for("the loss is logged", TEST_TIMEOUT, || {
        cluster.stderr(0).contains("lost")
    });
    std::fs::create_dir(&directory).unwrap();
    cluster.signal(0, Signal::SIGHUP);
    write_until_written(&client, "the log works again");
    assert!(!files(&directory).is_empty());
}

#[test]
fn a_missing_log_directory_does_not_prevent_the_start() {
    let (cluster, directory) = logging("all");
    std::fs::remove_dir_all(&directory).unwrap();
    std::fs::write(&directory, "a file where the folder should be").unwrap();
    let client = start(&cluster);
    client.write(0, b"served").unwrap();
    write_until_lost(&client, "lost lines are counted");
    assert_eq!(client.read(0, 6).unwrap().len(), 6);
}
