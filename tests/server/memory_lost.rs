//! Lost memory is reported: a client that knew it gets an error and never silent zeros.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use dsm_client::{ErrorKind, MemoryState};
use nix::sys::signal::Signal;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::dsmctl::run;
use support::{Cluster, client, is_error, wait_for};

/// The deadline for checks that the server makes once a second, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

#[test]
fn a_client_that_knew_the_lost_memory_is_told_and_a_new_one_reads_zeros() {
    let cluster = Cluster::start(2, 1 << 20);
    let k = cluster.layout().share_size();
    let old = client(&cluster);
    old.write(0, b"server 0").unwrap();
    old.write(k, b"server 1").unwrap();
    let bystander = client(&cluster);

    cluster.kill(1);
    cluster.forget(1);
    cluster.start_server(1);

    // Reads, writes and atomics alike, and repeatedly: reporting the loss does not clear it.
    for _ in 0..2 {
        for error in [
            old.read(k, 8).unwrap_err(),
            old.write(k, b"x").unwrap_err(),
            old.fetch_add(k, 1).unwrap_err(),
            old.read(k - 8, 16).unwrap_err(),
        ] {
            assert!(is_error(&error, ErrorKind::MemoryLost, 1), "{error:?}");
            let said = error.to_string();
            assert!(
                said.contains("server 1") && said.contains(cluster.address(1)),
                "{said:?}"
            );
        }
    }
    assert_eq!(
        old.read(0, 8).unwrap(),
        b"server 0",
        "the other server has lost nothing"
    );
    // This client never knew the memory of server 1, so for it nothing was lost.
    assert_eq!(bystander.read(k, 8).unwrap(), [0; 8]);
    assert_eq!(client(&cluster).read(k, 8).unwrap(), [0; 8]);

    old.accept_memory_loss(1);
    assert_eq!(
        old.read(k, 8).unwrap(),
        [0; 8],
        "a client that has accepted the loss can continue"
    );
    old.write(k, b"new life").unwrap();
    assert_eq!(client(&cluster).read(k, 8).unwrap(), b"new life");
}

#[test]
fn memory_deleted_by_reset_is_lost_too() {
    let cluster = Cluster::start(1, 1 << 20);
    let old = client(&cluster);
    old.write(0, b"precious").unwrap();
    cluster.kill(0);
    // A reset that is stopped leaves a new, empty segment for the next ordinary start.
    let mut reset = cluster.command(0).arg("--reset").spawn().unwrap();
    cluster_is_up(&cluster);
    reset.kill().unwrap();
    reset.wait().unwrap();
    cluster.start_server(0);
    let error = old.read(0, 8).unwrap_err();
    assert!(is_error(&error, ErrorKind::MemoryLost, 0), "{error:?}");
    assert_eq!(client(&cluster).read(0, 8).unwrap(), [0; 8]);
}

fn cluster_is_up(cluster: &Cluster) {
    support::wait_for("dsmd --reset listens", support::wire::TEST_TIMEOUT, || {
        std::net::TcpStream::connect(cluster.address(0)).is_ok()
    });
}

#[test]
fn every_server_that_lost_its_memory_is_named() {
    let cluster = Cluster::start(3, 1 << 20);
    let old = client(&cluster);
    let k = cluster.layout().share_size();
    for server in 0..3 {
        old.write(server * k, &[7; 8]).unwrap();
    }
    (0..3).for_each(|server| cluster.kill(server));
    (0..3).for_each(|server| cluster.forget(server));
    (0..3).for_each(|server| cluster.start_server(server));
    for server in 0..3 {
        let error = old.read(server as u64 * k, 8).unwrap_err();
        assert!(is_error(&error, ErrorKind::MemoryLost, server), "{error:?}");
    }
}

/// Whether the memory of server 0 has its name in /dev/shm.
fn is_named(cluster: &Cluster) -> bool {
    Path::new("/dev/shm")
        .join(format!("{}.0", cluster.name()))
        .exists()
}

/// Removes a file of server 0 in /dev/shm.
fn remove(cluster: &Cluster, suffix: &str) {
    std::fs::remove_file(format!("/dev/shm/{}.0{suffix}", cluster.name())).unwrap();
}

fn memory_state(cluster: &Cluster) -> MemoryState {
    client(cluster).status(0).unwrap().memory
}

#[test]
fn a_name_that_is_removed_under_a_running_server_is_restored() {
    let cluster = Cluster::builder().start();
    cluster.start_agents();
    client(&cluster).write(0, b"precious").unwrap();
    for suffix in ["", ".copies"] {
        remove(&cluster, suffix);
        let path = format!("/dev/shm/{}.0{suffix}", cluster.name());
        wait_for("the name is restored", DEADLINE, || {
            Path::new(&path).exists()
        });
    }
    wait_for("the log reports it", DEADLINE, || {
        cluster.stderr(0).contains("has restored the name")
    });
    assert_eq!(memory_state(&cluster), MemoryState::InUse);
    // A program that opens the memory by its name finds it.
    let file = cluster.snapshot();
    assert_eq!(
        std::fs::read(file.path()).unwrap().len() as u64,
        file.path().metadata().unwrap().len()
    );
    assert!(cluster.stop(0).success());
    assert!(cluster.stderr(0).contains("is kept"));
    assert!(
        !cluster
            .leftovers()
            .iter()
            .any(|path| path.to_string_lossy().ends_with(".kept")),
        "a second name is left"
    );
    cluster.start_server(0);
    assert_eq!(client(&cluster).read(0, 8).unwrap(), b"precious");
}

#[test]
fn a_python_program_that_opens_the_memory_does_not_remove_it() {
    let cluster = Cluster::builder().start();
    client(&cluster).write(0, b"precious").unwrap();
    let program = format!(
        "from multiprocessing import shared_memory; shared_memory.SharedMemory('{}.0').close()",
        cluster.name()
    );
    let ran = Command::new("python3")
        .args(["-c", &program])
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    // Some versions of Python remove it.
    wait_for("the name is there", DEADLINE, || is_named(&cluster));
    assert!(cluster.stop(0).success());
    cluster.start_server(0);
    assert_eq!(client(&cluster).read(0, 8).unwrap(), b"precious");
}

#[test]
fn a_memory_without_names_is_reported_and_never_called_kept() {
    let cluster = Cluster::builder().start();
    cluster.start_agents();
    let memory: Vec<u8> = (0..1 << 20)
        .map(|at: u32| at.to_le_bytes()[1] ^ 0x5a)
        .collect();
    client(&cluster).write(0, &memory).unwrap();
    let dsmctl =
        |line: &str, input: &[u8]| run(cluster.directory(), &cluster.config_path(), line, input);

    cluster
        .leftovers()
        .into_iter()
        .for_each(|path| std::fs::remove_file(path).unwrap());
    wait_for("the status reports it", DEADLINE, || {
        memory_state(&cluster) == MemoryState::InUseRemoved
    });
    let status = dsmctl("status", b"");
    assert!(status.prints().contains("in use, removed"), "{status:?}");
    let log = cluster.stderr(0);
    let advice = format!("dsmctl read 0 {} > FILE", memory.len());
    assert!(
        log.contains("ENDS WITH THIS DSMD") && log.contains(&advice),
        "{log}"
    );
    assert_eq!(log.matches("ENDS WITH THIS DSMD").count(), 1, "{log}");
    let refused = dsmctl("snapshot create -o lost.dsnap", b"");
    assert!(
        refused.code != 0 && refused.stderr.contains("journal"),
        "{refused:?}"
    );

    // Follow the advice literally.
    let saved = dsmctl(&format!("read 0 {}", memory.len()), b"");
    assert!(
        saved.code == 0 && saved.stdout == memory,
        "{}",
        saved.stderr
    );
    cluster.signal(0, Signal::SIGTERM);
    assert!(cluster.wait(0).success());
    let log = cluster.stderr(0);
    assert!(
        log.contains("its memory is lost") && !log.contains("is kept"),
        "{log}"
    );
    cluster.start_server(0);
    assert_eq!(client(&cluster).read(0, 8).unwrap(), [0; 8]);
    let put_back = dsmctl("write 0 --file -", &saved.stdout);
    assert_eq!(put_back.code, 0, "{}", put_back.stderr);
    assert!(client(&cluster).read(0, 1 << 20).unwrap() == memory);
}

#[test]
fn removed_semaphores_cost_no_memory_and_a_restart_recreates_them() {
    let cluster = Cluster::builder().start();
    client(&cluster).write(0, b"precious").unwrap();
    std::fs::remove_file(format!("/dev/shm/sem.{}.0.17", cluster.name())).unwrap();
    wait_for("the status reports it", DEADLINE, || {
        memory_state(&cluster) == MemoryState::InUsePartsRemoved
    });
    assert!(
        cluster.stderr(0).contains("a semaphore"),
        "{}",
        cluster.stderr(0)
    );
    assert!(cluster.stop(0).success());
    assert!(cluster.stderr(0).contains("is kept"));
    cluster.start_server(0);
    assert_eq!(client(&cluster).read(0, 8).unwrap(), b"precious");
    assert_eq!(memory_state(&cluster), MemoryState::InUse);
}

#[test]
fn the_second_name_of_a_killed_server_keeps_no_memory_that_was_removed() {
    let cluster = Cluster::builder().start();
    client(&cluster).write(0, b"precious").unwrap();
    cluster.kill(0);
    remove(&cluster, "");
    cluster.start_server(0);
    assert_eq!(client(&cluster).read(0, 8).unwrap(), [0; 8]);
    remove(&cluster, "");
    wait_for("the name is restored", DEADLINE, || is_named(&cluster));
    client(&cluster).write(0, b"new data").unwrap();
    assert!(cluster.stop(0).success());
    cluster.start_server(0);
    assert_eq!(client(&cluster).read(0, 8).unwrap(), b"new data");
}
