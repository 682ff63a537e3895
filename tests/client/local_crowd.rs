//! More local programs and threads than a segment has room for: those without room use TCP, and
//! every change takes effect once.

// The lint exempts #[test] functions, not the helpers that they call.
#![allow(clippy::unwrap_used)]

use dsm_client::{Client, DataPath, Error};
use dsm_config::Config;
use std::process::{Child, Stdio};
use support::{Cluster, client, local_client, own_process, wait_for};

const K: u64 = 1 << 20;

/// More processes than a segment has room for participants, and more threads than it has workers
/// for local clients.
const PROCESSES: u64 = 70;
const THREADS: u64 = 64;

/// The additions of each process or thread.
const ROUNDS: u64 = 200;

/// The addresses of words: the number of processes that have started, the number of local ones
/// among them, and the first of the words that all of them count with.
const STARTED: u64 = 0;
const LOCAL: u64 = 8;
const COUNTERS: u64 = 4096;

fn word(client: &Client, address: u64) -> u64 {
    u64::from_le_bytes(client.read(address, 8).unwrap().try_into().unwrap())
}

/// Adds to words on several pages, so that many threads compete for their stripes.
fn count(client: &Client) -> Result<(), Error> {
    (0..ROUNDS).try_for_each(|round| client.fetch_add(COUNTERS + round % 4 * 4096, 1).map(drop))
}

fn counted(client: &Client) -> u64 {
    (0..4)
        .map(|page| word(client, COUNTERS + page * 4096))
        .sum()
}

/// Not a test by itself: the body of the processes. Each waits until all have started.
#[test]
fn crowd_process() {
    if std::env::var_os("CROWD").is_none() {
        return;
    }
    let client = Client::new(&Config::load(&Config::find(None)).unwrap());
    let is_local = client.data_path(0).unwrap() == DataPath::Local;
    client.fetch_add(LOCAL, u64::from(is_local)).unwrap();
    client.fetch_add(STARTED, 1).unwrap();
    wait_for("all have started", support::restores::TEST_TIMEOUT, || {
        word(&client, STARTED) == PROCESSES
    });
    count(&client).unwrap();
}

/// Kills the remaining processes when the test fails.
struct Crowd(Vec<Child>);

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn more_programs_than_participants_all_complete() {
    let cluster = Cluster::builder().k(K).local().start();
    let process = |_| {
        own_process::command(module_path!(), "crowd_process")
            .env("CROWD", "1")
            .env("DSM_CONFIG", cluster.config_path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut crowd = Crowd((0..PROCESSES).map(process).collect());
    for child in &mut crowd.0 {
        assert!(child.wait().unwrap().success());
    }
    let remote = client(&cluster);
    let local = word(&remote, LOCAL);
    println!("{local} of {PROCESSES} processes were local");
    assert!(local > 40 && local < PROCESSES, "{local}");
    assert_eq!(counted(&remote), PROCESSES * ROUNDS);
}

#[test]
fn local_clients_leave_room_for_a_server_and_an_agent() {
    let cluster = Cluster::start(1, K);
    // Each client is a separate participant, and keeps a worker.
    let crowd: Vec<Client> = (0..PROCESSES).map(|_| local_client(&cluster)).collect();
    for client in &crowd {
        client.fetch_add(COUNTERS, 1).unwrap();
    }
    let local = || {
        crowd
            .iter()
            .filter(|client| client.data_path(0).unwrap() == DataPath::Local)
            .count()
    };
    println!("{} of {PROCESSES} clients are local", local());
    assert_eq!(local(), 48, "one for each worker of local clients");
    cluster.restart(0);
    cluster.start_agents();
    let file = cluster.snapshot();
    assert!(file.path().exists());
    assert_eq!(word(&client(&cluster), COUNTERS), PROCESSES);
    drop(crowd);
}

#[test]
fn more_threads_than_workers_all_complete() {
    let cluster = Cluster::start(1, K);
    let client = local_client(&cluster);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| count(&client).unwrap());
        }
    });
    assert_eq!(counted(&client), THREADS * ROUNDS);
    let status = client.status(0).unwrap();
    println!(
        "{} of {} were local",
        status.local.atomics,
        THREADS * ROUNDS
    );
    assert!(status.local.atomics > 0);
}
