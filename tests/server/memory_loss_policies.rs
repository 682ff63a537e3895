//! What a server does after it lost its memory is the operator's choice: zeros, wait, or restore
//! the newest intact snapshot.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use dsm_client::{Effect, ErrorKind, MemoryState};
use dsm_config::Compression;
use dsm_core::layout::{Layout, PAGE};
use dsm_core::protocol::Code;
use dsm_snapshot::{Destination, FileName, Header, HeaderFields, SnapshotFile, SnapshotWriter};
use nix::sys::signal::Signal;
use serde_json::json;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use support::messages::{control, receive};
use support::random::Random;
use support::restores::TEST_TIMEOUT;
use support::snapshots::{PAGE_BYTES, damage, memory};
use support::{Cluster, client, is_error, wait_for};

const K: usize = 256 << 10;

/// Three servers with a policy, and their agents.
fn cluster(policy: &str) -> Cluster {
    let recovery = format!("[recovery]\non_memory_loss = {policy:?}");
    let cluster = Cluster::builder()
        .servers(3)
        .k(K as u64)
        .config(&recovery)
        .start();
    cluster.start_agents();
    cluster
}

/// Gives server `index` a separate snapshot directory.
fn own_directory(cluster: &Cluster, index: usize) -> PathBuf {
    let directory = cluster.directory().join(format!("snapshots.{index}"));
    std::fs::create_dir(&directory).unwrap();
    let text = std::fs::read_to_string(cluster.config_path()).unwrap();
    let (shared, own) = (cluster.snapshot_directory(), directory.to_str().unwrap());
    let text = text.replace(
        &format!("directory = {:?}", shared.to_str().unwrap()),
        &format!("directory = {own:?}"),
    );
    assert!(text.contains(own));
    std::fs::write(cluster.directory().join(format!("mcomp.{index}.cfg")), text).unwrap();
    cluster.restart_agent(index);
    directory
}

/// Writes another memory and takes a snapshot of it.
fn snapshot_of_another(cluster: &Cluster, random: &mut Random) -> (Vec<u8>, PathBuf) {
    let mut bytes = memory(random, 3 * K / PAGE_BYTES);
    // Every server has bytes that a damaged frame can lose.
    bytes
        .chunks_mut(K)
        .for_each(|segment| segment[..PAGE_BYTES].fill(b'x'));
    cluster.write_all(&bytes);
    let file = cluster.snapshot().path().to_owned();
    (bytes, file)
}

/// Kills server `index` and starts it without its memory.
fn lose(cluster: &Cluster, index: usize) {
    cluster.kill(index);
    cluster.forget(index);
    cluster.start_server(index);
}

/// Checks that server 1 has the bytes that it has in `snapshot`, and the others those of `live`.
#[track_caller]
fn check(cluster: &Cluster, live: &[u8], snapshot: &[u8]) {
    let expected = [&live[..K], &snapshot[K..2 * K], &live[2 * K..]].concat();
    let found = cluster.read_all();
    let differs = found
        .iter()
        .zip(&expected)
        .position(|(found, expected)| found != expected);
    assert_eq!(differs, None, "the first address that is not as expected");
}

#[test]
fn empty_begins_with_zeros_and_a_warning() {
    let cluster = cluster("empty");
    let (bytes, _) = snapshot_of_another(&cluster, &mut Random::new("empty"));
    let knew = client(&cluster);
    knew.read(0, 3 * K as u64).unwrap();
    lose(&cluster, 1);
    check(&cluster, &bytes, &vec![0; 3 * K]);
    assert!(is_error(
        &knew.read(K as u64, 8).unwrap_err(),
        ErrorKind::MemoryLost,
        1
    ));
    assert!(
        knew.read(0, K as u64).unwrap() == bytes[..K],
        "the others have lost nothing"
    );
    let said = cluster.stderr(1);
    let lost = said
        .lines()
        .rev()
        .find(|line| line.contains("was not there"))
        .unwrap();
    assert!(lost.contains(" WARN ") && lost.contains("zeros"), "{lost}");
}

#[test]
fn the_last_snapshot_of_a_lost_memory_is_not_deleted_in_favour_of_snapshots_of_zeros() {
    let cluster = Cluster::builder()
        .servers(2)
        .k(K as u64)
        .snapshot("keep = 2")
        .start();
    cluster.start_agents();
    let mut random = Random::new("zeros");
    let bytes = memory(&mut random, 2 * K / PAGE_BYTES);
    cluster.write_all(&bytes);
    cluster.snapshot();
    let last = cluster.snapshot().path().to_owned();
    lose(&cluster, 1);
    let runs: Vec<_> = (0..4).map(|_| cluster.create_snapshot(&[])).collect();
    let name = last.file_name().unwrap().to_str().unwrap();
    // Two of the zeros, and that one.
    assert_eq!(cluster.snapshots().len(), 3);
    assert!(
        !runs[0].stderr.contains("keep_lost"),
        "it is one of the newest still"
    );
    for run in &runs[1..] {
        assert_eq!(run.code, 0, "{}", run.stderr);
        let told = |line: &str| {
            line.contains(" WARN ") && line.contains(name) && line.contains("keep_lost")
        };
        assert!(run.stderr.lines().any(told), "{}", run.stderr);
    }
    println!("{}", runs[3].stderr);
    cluster.restore(&last, "").prints();
    assert!(cluster.read_all() == bytes);
}

#[test]
fn wait_refuses_every_request_until_an_administrator_decides() {
    let cluster = cluster("wait");
    // The first, empty memory must be accepted too.
    (0..3).for_each(|server| cluster.assert_memory_closed(server));
    cluster.dsmctl("memory accept-empty").prints();
    let mut random = Random::new("wait");
    let (bytes, file) = snapshot_of_another(&cluster, &mut random);
    let knew = client(&cluster);
    knew.read(0, 3 * K as u64).unwrap();
    lose(&cluster, 1);

    let own = K as u64;
    let refusals = [
        knew.read(own, 8).unwrap_err(),
        knew.write(own, b"x").unwrap_err(),
        knew.fill(own, 8, 1).unwrap_err(),
        knew.fetch_add(own, 1).unwrap_err(),
        knew.copy(own..own + 8, own + 8).unwrap_err(),
        client(&cluster).read(own - 4, 8).unwrap_err(),
    ];
    for error in &refusals {
        assert!(is_error(error, ErrorKind::Refused, 1), "{error:?}");
        assert_eq!(
            (error.refusal(), error.effect()),
            (Some(Code::Restoring), Effect::None)
        );
        assert!(error.reason().contains("waiting for restore"), "{error}");
    }
    println!("{}", refusals[0]);
    assert_eq!(
        client(&cluster).status(1).unwrap().memory,
        MemoryState::WaitingForRestore
    );
    assert!(
        knew.read(0, own).unwrap() == bytes[..K],
        "the other servers still serve"
    );
    // It still waits after a restart.
    cluster.restart(1);
    cluster.assert_memory_closed(1);

    cluster.restore(&file, &format!("--range {K} {K}")).prints();
    check(&cluster, &bytes, &bytes);
    assert!(is_error(
        &knew.read(own, 8).unwrap_err(),
        ErrorKind::MemoryLost,
        1
    ));
    lose(&cluster, 1);
    cluster.dsmctl("memory accept-empty 1").prints();
    check(&cluster, &bytes, &vec![0; 3 * K]);
}

#[test]
fn restore_takes_its_part_of_the_newest_snapshot() {
    let cluster = cluster("restore");
    cluster.dsmctl("memory accept-empty").prints();
    let mut random = Random::new("local");
    snapshot_of_another(&cluster, &mut random);
    let (newest, _) = snapshot_of_another(&cluster, &mut random);
    let live = memory(&mut random, 3 * K / PAGE_BYTES);
    cluster.write_all(&live);
    let knew = client(&cluster);
    knew.read(0, 3 * K as u64).unwrap();
    let before = cluster.incarnations();
    lose(&cluster, 1);
    check(&cluster, &live, &newest);
    let after = cluster.incarnations();
    assert!(before[0] == after[0] && before[1] != after[1] && before[2] == after[2]);
    assert!(is_error(
        &knew.read(K as u64, 8).unwrap_err(),
        ErrorKind::MemoryLost,
        1
    ));
    // A server that has its memory keeps it.
    cluster.write_all(&live);
    cluster.restart(1);
    assert!(cluster.read_all() == live);
}

#[test]
fn restore_fetches_a_snapshot_that_only_another_machine_has() {
    let cluster = cluster("restore");
    cluster.dsmctl("memory accept-empty").prints();
    let mut random = Random::new("elsewhere");
    let own = own_directory(&cluster, 1);
    let (older, file) = snapshot_of_another(&cluster, &mut random);
    let live = memory(&mut random, 3 * K / PAGE_BYTES);
    cluster.write_all(&live);
    lose(&cluster, 1);
    check(&cluster, &live, &older);

    // An older snapshot in its own directory is not used.
    move_to(&file, &own);
    let (newest, file) = snapshot_of_another(&cluster, &mut random);
    cluster.write_all(&live);
    lose(&cluster, 1);
    check(&cluster, &live, &newest);

    // A newer one in its own directory is used.
    move_to(&file, &own);
    lose(&cluster, 1);
    check(&cluster, &live, &newest);
}

#[test]
fn restore_skips_damaged_and_partial_snapshots_on_any_machine() {
    let cluster = cluster("restore");
    cluster.dsmctl("memory accept-empty").prints();
    let mut random = Random::new("damaged");
    let own = own_directory(&cluster, 1);
    let (sound, oldest) = snapshot_of_another(&cluster, &mut random);
    move_to(&oldest, &own);
    let (_, here) = snapshot_of_another(&cluster, &mut random);
    // Damaged in the part of another server: a damaged file is not used at all.
    damage(&here, 0);
    let here = move_to(&here, &own);
    let (_, elsewhere) = snapshot_of_another(&cluster, &mut random);
    damage(&elsewhere, K as u64);
    let live = {
        let bytes = memory(&mut random, 3 * K / PAGE_BYTES);
        cluster.write_all(&bytes);
        cluster.kill_agent(2);
        let run = cluster.spawn_master(&["--allow-partial"], &[]).wait();
        assert_eq!(run.code, 0, "{}", run.stderr);
        cluster.start_agent(2);
        bytes
    };
    lose(&cluster, 1);
    check(&cluster, &live, &sound);
    let said = cluster.agent(1).stderr();
    for file in [&here, &elsewhere] {
        let name = file.file_name().unwrap().to_str().unwrap();
        let told = said.lines().any(|line| {
            line.contains(" ERROR ") && line.contains(name) && line.contains("damaged")
        });
        assert!(told, "the log does not report {name}:\n{said}");
    }
}

#[test]
fn restore_skips_a_newer_snapshot_of_a_memory_with_too_few_servers() {
    let cluster = cluster("restore");
    cluster.dsmctl("memory accept-empty").prints();
    let (bytes, file) = snapshot_of_another(&cluster, &mut Random::new("small"));
    let newer = SnapshotFile::open(&file).unwrap().header().cut_time() + 1_000_000_000;
    let layout = Layout::new(cluster.name(), PAGE, vec![cluster.address(0).to_owned()]).unwrap();
    let header = Header::new(HeaderFields::new(layout, newer, &[1], Some(0)).unwrap()).unwrap();
    let destination = Destination::Directory(cluster.snapshot_directory());
    SnapshotWriter::create(destination, header, Compression::None)
        .unwrap()
        .finish()
        .unwrap();
    lose(&cluster, 1);
    check(&cluster, &bytes, &bytes);
}

#[test]
fn restore_skips_snapshots_of_the_future_on_any_machine() {
    let cluster = cluster("restore");
    cluster.dsmctl("memory accept-empty").prints();
    let own = own_directory(&cluster, 1);
    let (bytes, _) = snapshot_of_another(&cluster, &mut Random::new("future"));
    // Both files are intact, by all that can be checked.
    let tomorrow =
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(24 * 60 * 60);
    let tomorrow = u64::try_from(tomorrow.as_nanos()).unwrap();
    let header = Header::new(
        HeaderFields::new(cluster.layout().clone(), tomorrow, &[1; 3], Some(0)).unwrap(),
    )
    .unwrap();
    support::snapshots::write(&own, &header, &vec![b'h'; 3 * K], Compression::None);
    let liar = own_directory(&cluster, 2);
    support::snapshots::write(&liar, &header, &vec![b'e'; 3 * K], Compression::None);
    cluster.kill_agent(2);
    let name = FileName::new(tomorrow).to_string();
    let held =
        json!({"snapshots": {"files": [{"name": name, "cut_time": tomorrow, "size": 3 * K}]}});
    let listener = TcpListener::bind(cluster.agent_address(2)).unwrap();
    let lies = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for answer in [json!({"welcome": {"hostname": "liar"}}), held] {
            receive(&mut stream).unwrap();
            stream.write_all(&control(answer)).unwrap();
        }
        // It must get no other request; a further one would arrive on the open connection or on a
        // new one.
        receive(&mut stream).is_err()
    });
    lose(&cluster, 1);
    check(&cluster, &bytes, &bytes);
    assert!(lies.join().unwrap());
    let said = cluster.agent(1).stderr();
    assert!(
        said.lines()
            .any(|line| line.contains(&name) && line.contains("in the future")),
        "{said}"
    );
}

#[test]
fn restore_waits_when_there_is_no_snapshot_or_no_agent() {
    let cluster = cluster("restore");
    // There is no snapshot yet.
    cluster.dsmctl("memory accept-empty").prints();
    let live = memory(&mut Random::new("none"), 3 * K / PAGE_BYTES);
    cluster.write_all(&live);
    lose(&cluster, 1);
    cluster.assert_memory_closed(1);
    assert!(
        client(&cluster).read(0, K as u64).unwrap() == live[..K],
        "the other servers still serve"
    );
    cluster.dsmctl("memory accept-empty 1").prints();
    check(&cluster, &live, &vec![0; 3 * K]);

    cluster.write_all(&live);
    let file = cluster.snapshot();
    cluster.kill_agent(1);
    lose(&cluster, 1);
    cluster.assert_memory_closed(1);
    cluster.start_agent(1);
    cluster
        .restore(file.path(), &format!("--range {K} {K}"))
        .prints();
    check(&cluster, &live, &live);

    // A waiting server asks again after a restart.
    cluster.kill_agent(1);
    lose(&cluster, 1);
    cluster.assert_memory_closed(1);
    cluster.start_agent(1);
    cluster.restart(1);
    check(&cluster, &live, &live);
}

#[test]
fn a_server_is_not_ready_before_it_is_restored_and_can_be_stopped_until_then() {
    let cluster = cluster("restore");
    cluster.dsmctl("memory accept-empty").prints();
    let (bytes, _) = snapshot_of_another(&cluster, &mut Random::new("slow"));
    cluster.agent(1).signal(Signal::SIGSTOP);
    cluster.kill(1);
    cluster.forget(1);
    cluster.spawn_server(1);
    wait_for("the server has started", TEST_TIMEOUT, || {
        cluster.stderr(1).matches("was not there").count() == 2
    });
    assert!(
        TcpStream::connect(cluster.address(1)).is_err(),
        "it listens without its memory"
    );
    assert!(cluster.stop(1).success());
    cluster.agent(1).signal(Signal::SIGCONT);
    cluster.start_server(1);
    check(&cluster, &bytes, &bytes);
}

#[test]
fn an_agent_that_dies_during_a_restore_leaves_a_server_that_waits() {
    let cluster = cluster("restore");
    cluster.dsmctl("memory accept-empty").prints();
    let (bytes, file) = snapshot_of_another(&cluster, &mut Random::new("killed"));
    cluster.restart_agent_with(1, &[("DSM_TEST_DIE_AT", "restoring")]);
    lose(&cluster, 1);
    cluster.assert_memory_closed(1);
    cluster.restart_agent(1);
    cluster.restore(&file, &format!("--range {K} {K}")).prints();
    check(&cluster, &bytes, &bytes);
}

#[test]
fn nothing_of_a_snapshot_whose_agent_dies_is_left_when_an_older_one_is_restored() {
    // More than the buffers of a connection can hold.
    const K: u64 = 16 << 20;
    let recovery = "[recovery]\non_memory_loss = \"restore\"";
    let cluster = Cluster::builder().servers(2).k(K).config(recovery).start();
    cluster.start_agents();
    cluster.dsmctl("memory accept-empty").prints();
    let own = own_directory(&cluster, 1);
    client(&cluster).write(K + 10_000, b"older").unwrap();
    move_to(cluster.snapshot().path(), &own);
    client(&cluster).fill(K, K, b'n').unwrap();
    cluster.snapshot();

    cluster.restart_agent_with(1, &[("DSM_TEST_STOP_AT", "restoring")]);
    cluster.kill(1);
    cluster.forget(1);
    cluster.spawn_server(1);
    cluster.agent(1).wait_until_stopped();
    cluster.kill_agent(0);
    cluster.agent(1).resume_until("the server is ready", || {
        TcpStream::connect(cluster.address(1)).is_ok()
    });
    let mut expected = vec![0; usize::try_from(K).unwrap()];
    expected[10_000..10_005].copy_from_slice(b"older");
    assert!(client(&cluster).read(K, K).unwrap() == expected);
}

/// Moves a snapshot to another directory, where its name may be taken; returns its new path.
fn move_to(file: &Path, directory: &Path) -> PathBuf {
    let name = FileName::parse(file.file_name().unwrap().to_str().unwrap());
    let mut paths = std::iter::successors(name, |name| name.next())
        .map(|name| directory.join(name.to_string()));
    let free = paths.find(|path| !path.exists()).unwrap();
    std::fs::rename(file, &free).unwrap();
    free
}
