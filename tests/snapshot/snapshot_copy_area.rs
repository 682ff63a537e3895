//! When there is no room for the pages that writers overwrite while a snapshot is read, the
//! snapshot is abandoned with a clear error. The writers neither fail nor wait, and nothing is left
//! behind.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use dsm_client::{Client, DataPath};
use nix::sys::resource::{Resource, setrlimit};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use support::cgroup::MemoryGroup;
use support::namespace::{Mounted, entered};
use support::restores::TEST_TIMEOUT;
use support::snapshots::{PAGE_BYTES, names};
use support::{Cluster, client, own_process, wait_for};

/// Bytes of each server.
const K: usize = 1 << 20;

/// The length of the file with the pages that writers saved on server `index`.
fn copy_area(cluster: &Cluster, index: usize) -> u64 {
    let path = PathBuf::from(format!("/dev/shm/{}.{index}.copies", cluster.name()));
    path.metadata().unwrap().len()
}

/// Writers overwrite every page of server 1 again and again. The agent is stopped between the cut
/// and reading the pages, until they have overwritten every page again. The snapshot fails, and the
/// writers do not notice.
fn is_abandoned_under_load(cluster: &Cluster) {
    cluster.write_all(&vec![1; 2 * K]);
    cluster.restart_agent_with(1, &[("DSM_TEST_STOP_AT", "cut")]);
    let (stop, rounds) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 2]);
    std::thread::scope(|scope| {
        let writers: Vec<_> = rounds
            .iter()
            .zip(0_u64..)
            .map(|(done, half)| {
                let stop = &stop;
                scope.spawn(move || {
                    let client = client(cluster);
                    while !stop.load(Ordering::Relaxed) {
                        let round = done.load(Ordering::Relaxed) + 1;
                        for page in (half..(K / PAGE_BYTES) as u64).step_by(2) {
                            client.write(
                                (K + 8) as u64 + page * PAGE_BYTES as u64,
                                &round.to_le_bytes(),
                            )?;
                        }
                        done.store(round, Ordering::Relaxed);
                    }
                    Ok::<_, dsm_client::Error>(())
                })
            })
            .collect();
        let two_more_rounds = || {
            let before = rounds.each_ref().map(|done| done.load(Ordering::Relaxed));
            wait_for("the writers complete two more rounds", TEST_TIMEOUT, || {
                // The second round has begun after the call.
                writers
                    .iter()
                    .any(std::thread::ScopedJoinHandle::is_finished)
                    || rounds
                        .iter()
                        .zip(before)
                        .all(|(done, before)| done.load(Ordering::Relaxed) >= before + 2)
            });
        };
        two_more_rounds();
        let master = cluster.spawn_master(&[], &[]);
        cluster.agent(1).wait_until_stopped();
        two_more_rounds();
        cluster.agent(1).resume_until("the agent is continued", || {
            support::process::state(cluster.agent(1).pid()) != 'T'
        });
        let run = master.wait();
        println!("{}", run.stderr.lines().last().unwrap());
        run.fails(
            69,
            &["abandoned", "server 1", "snapshot.copy_area", "/dev/shm"],
        );
        two_more_rounds();
        stop.store(true, Ordering::Relaxed);
        writers
            .into_iter()
            .for_each(|writer| writer.join().unwrap().unwrap());
    });
    assert!(
        names(&cluster.snapshot_directory()).is_empty(),
        "the snapshot directory is not empty"
    );
    wait_for("the copy areas are empty", TEST_TIMEOUT, || {
        (0..2).all(|index| copy_area(cluster, index) == 0)
    });
    let said = cluster.stderr(1);
    assert!(
        said.lines()
            .any(|line| line.contains("copy area has no room")
                && line.contains("snapshot.copy_area")),
        "{said}"
    );
    // Without the write load there is room.
    cluster.restart_agent(1);
    let memory = cluster.read_all();
    assert!(cluster.export(cluster.snapshot().path()) == memory);
}

#[test]
fn a_copy_area_that_is_too_small_for_the_write_load_abandons_the_snapshot_only() {
    let cluster = Cluster::builder()
        .servers(2)
        .k(K as u64)
        .snapshot("copy_area = \"4KiB\"")
        .start();
    cluster.start_agents();
    is_abandoned_under_load(&cluster);
}

#[test]
fn a_full_dev_shm_abandons_the_snapshot_only() {
    if !entered(module_path!(), "a_full_dev_shm_abandons_the_snapshot_only") {
        return;
    }
    // Room for the segments with their tables. The ballast file takes the rest.
    let _shm = Mounted::new(64 << 20, "/dev/shm".as_ref());
    let cluster = Cluster::start(2, K as u64);
    cluster.start_agents();
    let mut ballast = std::fs::File::create("/dev/shm/ballast").unwrap();
    let full = (0..)
        .find_map(|_| ballast.write_all(&[1; PAGE_BYTES]).err())
        .unwrap();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    is_abandoned_under_load(&cluster);
}

#[test]
fn a_copy_area_with_room_for_the_write_load_holds_the_pages_and_is_given_back() {
    let cluster = Cluster::start(2, K as u64);
    cluster.start_agents();
    let memory = vec![1; 2 * K];
    cluster.write_all(&memory);
    cluster.restart_agent_with(1, &[("DSM_TEST_STOP_AT", "cut")]);
    let master = cluster.spawn_master(&[], &[]);
    cluster.agent(1).wait_until_stopped();
    client(&cluster).fill(K as u64, K as u64, 2).unwrap();
    assert_eq!(
        copy_area(&cluster, 1),
        K as u64,
        "every page of server 1 is saved once"
    );
    client(&cluster).fill(K as u64, K as u64, 3).unwrap();
    assert_eq!(copy_area(&cluster, 1), K as u64);
    cluster.agent(1).resume_until("the agent is continued", || {
        support::process::state(cluster.agent(1).pid()) != 'T'
    });
    let run = master.wait();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(copy_area(&cluster, 1), 0);
    assert!(
        cluster.export(&cluster.snapshots()[0]) == memory,
        "the snapshot shows what was written after its cut"
    );
}

/// The environment variable with the most bytes that a file of the local writer may have.
const FILE_LIMIT: &str = "DSM_TEST_FILE_LIMIT";

/// Not a test: the main function of the processes that [`overwrites_locally`] starts.
#[test]
fn local_writer_process() {
    let Ok(limit) = std::env::var(FILE_LIMIT) else {
        return;
    };
    if let Ok(limit) = limit.parse() {
        setrlimit(Resource::RLIMIT_FSIZE, limit, limit).unwrap();
    }
    let client = Client::new(&dsm_config::Config::load(&dsm_config::Config::find(None)).unwrap());
    assert_eq!(client.data_path(0).unwrap(), DataPath::Local);
    for address in (0..client.size()).step_by(1 << 20) {
        client.fill(address, 1 << 20, 2).unwrap();
    }
}

/// Starts a program by `command` that uses the memory locally and overwrites all of it, and checks
/// that it succeeds.
fn overwrites_locally(cluster: &Cluster, mut command: Command, file_limit: &str) {
    command.args(own_process::arguments(
        module_path!(),
        "local_writer_process",
    ));
    command
        .env("DSM_CONFIG", cluster.config_path())
        .env(FILE_LIMIT, file_limit);
    own_process::passes(&mut command, "the local writer");
}

/// Begins a snapshot of `cluster`. Its master is stopped after the cut.
fn begin_snapshot(cluster: &Cluster) -> support::agents::Master {
    let master = cluster.spawn_master(&[], &[("DSM_TEST_STOP_AT", "cut")]);
    master.wait_until_stopped();
    master
}

#[test]
fn a_local_writer_whose_file_size_limit_is_zero_ends_the_snapshot_and_survives() {
    let cluster = Cluster::builder().k(4 << 20).local().start();
    cluster.start_agents();
    cluster.write_all(&vec![1; 4 << 20]);
    let master = begin_snapshot(&cluster);
    overwrites_locally(
        &cluster,
        Command::new(std::env::current_exe().unwrap()),
        "0",
    );
    master.resume();
    master.wait().fails(69, &["abandoned"]);
    assert!(cluster.read_all() == vec![2; 4 << 20]);
    wait_for("the copy area is empty", TEST_TIMEOUT, || {
        copy_area(&cluster, 0) == 0
    });
}

#[test]
fn the_pages_that_a_local_writer_saves_are_charged_to_the_agent() {
    const MEMORY: usize = 64 << 20;
    // Enough for the program, but only a fraction of what it overwrites.
    let Some(group) = MemoryGroup::new(24 << 20) else {
        return;
    };
    let cluster = Cluster::builder().k(MEMORY as u64).local().start();
    cluster.start_agents();
    cluster.write_all(&vec![1; MEMORY]);
    let master = begin_snapshot(&cluster);
    overwrites_locally(
        &cluster,
        group.command(std::env::current_exe().unwrap()),
        "unlimited",
    );
    assert_eq!(
        copy_area(&cluster, 0),
        MEMORY as u64,
        "every page was saved"
    );
    master.resume();
    let run = master.wait();
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(
        cluster.export(&cluster.snapshots()[0]) == vec![1; MEMORY],
        "the snapshot shows what was written after its cut"
    );
    assert!(cluster.read_all() == vec![2; MEMORY]);
}

#[test]
fn a_stopped_agent_delays_a_local_writer_only_for_a_moment() {
    const MEMORY: u64 = 32 << 20;
    let cluster = Cluster::builder().k(MEMORY).local().start();
    cluster.start_agents();
    cluster.write_all(&vec![1; usize::try_from(MEMORY).unwrap()]);
    let master = begin_snapshot(&cluster);
    // The agent has begun to allocate the copy area.
    wait_for("pages are allocated", TEST_TIMEOUT, || {
        copy_area(&cluster, 0) > 0
    });
    cluster.agent(0).signal(nix::sys::signal::Signal::SIGSTOP);
    wait_for("the agent is stopped", TEST_TIMEOUT, || {
        support::process::state(cluster.agent(0).pid()) == 'T'
    });
    overwrites_locally(
        &cluster,
        Command::new(std::env::current_exe().unwrap()),
        "unlimited",
    );
    cluster.agent(0).signal(nix::sys::signal::Signal::SIGCONT);
    master.resume();
    master.wait().fails(69, &["abandoned"]);
}
