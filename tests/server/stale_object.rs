//! An object that has the name of a segment but is not that segment is refused with what was found
//! and expected, left unchanged, and deleted only by `--reset`.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use dsm_client::Client;

use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::PathBuf;
use support::other_user::{self, OTHER_USER};
use support::{Cluster, client};

const K: u64 = 1 << 20;

/// `EX_CONFIG` of sysexits(3).
const CONFIG: i32 = 78;

/// `EX_UNAVAILABLE`: the unit tries again after it.
const UNAVAILABLE: i32 = 69;

fn object(cluster: &Cluster) -> PathBuf {
    PathBuf::from(format!("/dev/shm/{}.0", cluster.name()))
}

/// Fails unless dsmd refuses the object with exit code 78, a message with each of `words` and its
/// remedies, and changes nothing.
fn assert_refused(cluster: &Cluster, words: &[&str]) {
    let before = std::fs::read(object(cluster)).unwrap();
    let names = cluster.leftovers();
    cluster.spawn_server(0);
    let status = cluster.wait(0);
    let log = cluster.stderr(0);
    let said = log.rsplit("--- dsmd").next().unwrap_or_default();
    println!("{status}: {said}");
    assert_eq!(status.code(), Some(CONFIG), "{said}");
    for word in words {
        assert!(said.contains(word), "{said:?} does not say {word:?}");
    }
    let remove = format!(
        "rm -f {0} {0}.* /dev/shm/sem.{1}.0.*",
        object(cluster).display(),
        cluster.name()
    );
    for hint in [
        "take a snapshot",
        &remove,
        "as root or as the user whose it is",
        "--reset, as that user only",
    ] {
        assert!(said.contains(hint), "{said:?} does not say what to do");
    }
    assert!(
        std::fs::read(object(cluster)).unwrap() == before,
        "the object was modified"
    );
    assert_eq!(cluster.leftovers(), names, "files were created or removed");
}

/// Fails unless `--reset` starts with zeros in place of what was there.
fn assert_reset_helps(cluster: &Cluster) {
    let mut child = cluster.command(0).arg("--reset").spawn().unwrap();
    let end = std::time::Instant::now() + support::wire::TEST_TIMEOUT;
    while std::net::TcpStream::connect(cluster.address(0)).is_err() {
        let ended = child.try_wait().unwrap();
        assert!(
            ended.is_none() && std::time::Instant::now() < end,
            "dsmd --reset does not start: {ended:?}"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let found = client(cluster).read(0, 64);
    let _ = child.kill();
    let _ = child.wait();
    assert_eq!(found.unwrap(), [0; 64]);
    // The reset is complete: the next start is an ordinary one.
    cluster.start_server(0);
    cluster.stop(0);
}

/// A cluster whose server 0 has run, written and stopped.
fn used() -> Cluster {
    let cluster = Cluster::start(1, K);
    client(&cluster).write(0, b"what was there before").unwrap();
    assert!(cluster.stop(0).success());
    cluster
}

#[test]
fn foreign_bytes_are_refused_and_left_alone() {
    let cluster = Cluster::builder().k(K).create();
    let name = format!("{}.0", cluster.name());
    for bytes in [b"#!/bin/sh\n".to_vec(), vec![0xa5; 3 << 20]] {
        std::fs::write(object(&cluster), &bytes).unwrap();
        assert_refused(&cluster, &[&name, "expected"]);
    }
    assert_reset_helps(&cluster);
}

#[test]
fn foreign_bytes_that_begin_with_zeros_are_refused_and_left_alone() {
    let cluster = Cluster::builder().k(K).create();
    std::fs::write(object(&cluster), [vec![0; 64], vec![7; 5000]].concat()).unwrap();
    assert_refused(&cluster, &["expected"]);
}

#[test]
fn an_object_of_another_format_is_refused_and_left_alone() {
    let cluster = used();
    // The format version is the second word of the superblock.
    let file = std::fs::File::options()
        .write(true)
        .open(object(&cluster))
        .unwrap();
    file.write_all_at(&4711_u64.to_le_bytes(), 8).unwrap();
    assert_refused(&cluster, &["format", "4711", "expected"]);
    assert_reset_helps(&cluster);
}

#[test]
fn a_truncated_object_is_refused_and_left_alone() {
    let cluster = used();
    let file = std::fs::File::options()
        .write(true)
        .open(object(&cluster))
        .unwrap();
    for size in [100, 4096, K] {
        file.set_len(size).unwrap();
        assert_refused(&cluster, &["size", &size.to_string(), "expected"]);
    }
    assert_reset_helps(&cluster);
}

#[test]
fn a_segment_of_another_k_is_refused_and_left_alone() {
    let cluster = used();
    let path = cluster.config_path();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("k = 1048576", "k = 2097152")).unwrap();
    assert_refused(&cluster, &["k is", "1048576", "2097152"]);
    // With the old k, all data is still there.
    std::fs::write(&path, &text).unwrap();
    cluster.start_server(0);
    assert_eq!(
        client(&cluster).read(0, 21).unwrap(),
        b"what was there before"
    );
}

#[test]
fn a_segment_survives_a_change_of_the_map_around_it() {
    let cluster = used();
    let path = cluster.config_path();
    let text = std::fs::read_to_string(&path).unwrap();
    let more = text.replace("n = 1", "n = 2") + "\n[[server]]\naddress = \"127.0.0.1:9\"\n";
    std::fs::write(&path, more).unwrap();
    cluster.start_server(0);
    assert_eq!(
        Client::new(&cluster.config()).read(0, 21).unwrap(),
        b"what was there before"
    );
}

/// The names of the memory in /dev/shm: the segment, its copy area, one of its semaphores, and the
/// name under which semaphores are created.
fn names(cluster: &Cluster) -> [String; 4] {
    let name = cluster.name();
    [
        format!("{name}.0"),
        format!("{name}.0.copies"),
        format!("sem.{name}.0.03"),
        format!("sem.{name}.0.new"),
    ]
}

/// Fails unless dsmd, run by this command, ends with exit code 69 and a message with each of
/// `words`, and leaves only `path`.
fn assert_unavailable(
    cluster: &Cluster,
    mut command: std::process::Command,
    path: &std::path::Path,
    words: &[&str],
) {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    println!("{}: {said}", output.status);
    assert_eq!(output.status.code(), Some(UNAVAILABLE), "{said}");
    for word in words.iter().chain([&path.to_str().unwrap()]) {
        assert!(said.contains(word), "{said:?} does not say {word:?}");
    }
    assert_eq!(cluster.leftovers(), [path]);
}

#[test]
fn a_name_that_another_user_has_is_refused_with_the_file_its_owner_and_the_remedy() {
    if !other_user::is_possible() {
        return;
    }
    let cluster = Cluster::builder().k(K).create();
    for name in names(&cluster) {
        let path = PathBuf::from("/dev/shm").join(name);
        std::fs::write(&path, [0; 32]).unwrap();
        for mode in [0o600, 0o666] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let (_folder, command) =
                other_user::command(env!("CARGO_BIN_EXE_dsmd"), &cluster, "--clear-groups");
            let hint = format!("{}", path.display());
            let words = [
                "user root (uid 0)",
                &format!("uid {OTHER_USER}"),
                "rm ",
                &hint,
            ];
            assert_unavailable(&cluster, command, &path, &words);
        }
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_name_that_is_no_file_is_refused_with_its_type_and_left_alone() {
    let cluster = Cluster::builder().k(K).create();
    for name in &names(&cluster)[..2] {
        let path = PathBuf::from("/dev/shm").join(name);
        std::fs::create_dir(&path).unwrap();
        assert_unavailable(
            &cluster,
            cluster.command(0),
            &path,
            &["is a directory", "remove it"],
        );
        std::fs::remove_dir(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_unavailable(
            &cluster,
            cluster.command(0),
            &path,
            &["is a FIFO", "remove it"],
        );
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_unavailable(
            &cluster,
            cluster.command(0),
            &path,
            &["is a symbolic link", "remove it"],
        );
        std::fs::remove_file(&path).unwrap();
    }
    let path = PathBuf::from("/dev/shm").join(&names(&cluster)[2]);
    std::fs::create_dir(&path).unwrap();
    assert_unavailable(
        &cluster,
        cluster.command(0),
        &path,
        &["is a directory", "remove it"],
    );
    std::fs::remove_dir(&path).unwrap();
}

#[test]
fn a_semaphore_that_another_user_has_created_for_a_segment_is_not_used() {
    if !other_user::is_possible() {
        return;
    }
    let cluster = used();
    let path = PathBuf::from("/dev/shm").join(&names(&cluster)[2]);
    // If dsmd opened it, its owner could truncate it at any time, which is a SIGBUS for dsmd.
    chown(&path, Some(OTHER_USER), None).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    cluster.spawn_server(0);
    let status = cluster.wait(0);
    let said = cluster.stderr(0);
    assert_eq!(status.code(), Some(UNAVAILABLE), "{said}");
    assert!(
        said.contains(path.to_str().unwrap()) && said.contains(&format!("uid {OTHER_USER}")),
        "{said}"
    );
    std::fs::remove_file(&path).unwrap();
    cluster.start_server(0);
    assert_eq!(
        client(&cluster).read(0, 21).unwrap(),
        b"what was there before"
    );
}

#[test]
fn missing_and_truncated_semaphores_are_recreated_and_the_memory_is_kept() {
    let cluster = used();
    let [_, _, semaphore, making] =
        names(&cluster).map(|name| PathBuf::from("/dev/shm").join(name));
    std::fs::File::options()
        .write(true)
        .open(&semaphore)
        .unwrap()
        .set_len(0)
        .unwrap();
    std::fs::remove_file(semaphore.with_extension("40")).unwrap();
    // The file that a dsmd leaves when it is killed while it creates a semaphore.
    std::fs::write(&making, [0; 7]).unwrap();
    cluster.start_server(0);
    assert_eq!(
        client(&cluster).read(0, 21).unwrap(),
        b"what was there before"
    );
    assert_eq!(std::fs::metadata(&semaphore).unwrap().len(), 32);
    assert!(!making.exists(), "{} is left", making.display());
}
