//! When any process dies during a restore, no client reads a half-restored memory: it stays closed
//! until a restore succeeds, or until an administrator accepts it as zeros. A process that dies
//! before the first change leaves the memory in use.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use dsm_core::segment::Segment;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use support::random::Random;
use support::restores::{TEST_TIMEOUT, retry_while_under_way};
use support::snapshots::{PAGE_BYTES, memory};
use support::{Cluster, client, wait_for};

/// Bytes of each server: several messages of a restore.
const K: usize = 1 << 20;

/// The last server: when its agent receives its part, the master has sent the others theirs.
const LAST: usize = 2;

/// Three servers, their agents, a memory, and a snapshot of another memory.
struct Case {
    cluster: Cluster,
    in_snapshot: Vec<u8>,
    live: Vec<u8>,
    file: PathBuf,
}

impl Case {
    fn new(test: &str) -> Self {
        let mut random = Random::new(test);
        let cluster = Cluster::start(3, K as u64);
        cluster.start_agents();
        let mut made_up = || {
            let mut bytes = memory(&mut random, 3 * K / PAGE_BYTES);
            // Every server has bytes that are not zeros.
            bytes
                .chunks_mut(K)
                .for_each(|segment| segment[..PAGE_BYTES].fill(7));
            bytes
        };
        let (in_snapshot, live) = (made_up(), made_up());
        cluster.write_all(&in_snapshot);
        let file = cluster.snapshot().path().to_owned();
        cluster.write_all(&live);
        Self {
            cluster,
            in_snapshot,
            live,
            file,
        }
    }

    fn restore(&self) -> support::dsmctl::Run {
        self.cluster.restore(&self.file, "")
    }

    /// Starts a restore that stalls after it has begun, because the last agent is stopped.
    fn half_restored(&self) -> Restorer {
        self.cluster
            .restart_agent_with(LAST, &[("DSM_TEST_STOP_AT", "restoring")]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_dsmctl"));
        command
            .arg("--config")
            .arg(self.cluster.config_path())
            .args(["snapshot", "restore"])
            .arg(&self.file);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let restorer = Restorer(child);
        self.cluster.agent(LAST).wait_until_stopped();
        // The master has sent the others their parts. Wait until each has written a byte: an agent
        // that is killed before leaves the memory as it was.
        for server in 0..u32::try_from(LAST).unwrap() {
            let segment = Segment::attach(self.cluster.layout(), server).unwrap();
            wait_for(
                "the restore of another server has begun",
                TEST_TIMEOUT,
                || segment.restorer().is_some(),
            );
        }
        restorer
    }

    /// Checks that every server refuses reads and writes.
    #[track_caller]
    fn waits(&self) {
        for server in 0..3 {
            self.cluster.assert_memory_closed(server);
            let write = self.cluster.dsmctl(&format!("write {} x", server * K));
            write.fails(75, &["waiting for restore"]);
        }
    }

    /// Checks that the memory waits for a restore, also after every dsmd was killed and started,
    /// and that another restore opens it.
    #[track_caller]
    fn waits_until_it_is_restored(&self) {
        self.waits();
        (0..3).for_each(|server| self.cluster.restart(server));
        self.waits();
        // A restore of a part is refused, because it would open the rest, too.
        let part = format!("--range {} 8", K + 8);
        retry_while_under_way(|| self.cluster.restore(&self.file, &part)).fails(
            65,
            &[
                "server 1",
                &format!("--range {K} {K}"),
                "dsmctl memory accept-empty",
            ],
        );
        self.waits();
        retry_while_under_way(|| self.restore()).prints();
        assert!(
            self.cluster.read_all() == self.in_snapshot,
            "what was restored is not what was in the snapshot"
        );
    }

    /// Checks that the memory is in use and unchanged.
    #[track_caller]
    fn is_as_it_was(&self, incarnations: &[String]) {
        assert!(
            self.cluster.read_all() == self.live,
            "something was changed"
        );
        assert_eq!(self.cluster.incarnations(), incarnations);
        client(&self.cluster).write(K as u64, b"in use").unwrap();
    }
}

/// A dsmctl that restores; killed when dropped.
struct Restorer(Child);

impl Restorer {
    fn kill(&mut self) {
        kill(
            Pid::from_raw(i32::try_from(self.0.id()).unwrap()),
            Signal::SIGKILL,
        )
        .unwrap();
        self.0.wait().unwrap();
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Restorer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_agent_that_is_killed_leaves_a_memory_that_waits() {
    let case = Case::new("agent");
    case.cluster
        .restart_agent_with(1, &[("DSM_TEST_DIE_AT", "restoring")]);
    let run = case.restore();
    println!("{}", run.stderr);
    run.fails(
        69,
        &[
            "cut short",
            "agent of server 1",
            "servers 0, 1, 2",
            "restore again",
            "dsmctl memory accept-empty",
        ],
    );
    assert!(
        !run.stderr.contains("nothing was restored"),
        "{}",
        run.stderr
    );
    case.cluster.restart_agent(1);
    case.waits_until_it_is_restored();
}

#[test]
fn a_dsmctl_that_is_killed_leaves_a_memory_that_waits() {
    let case = Case::new("dsmctl");
    case.half_restored().kill();
    case.waits();
    let agent = case.cluster.agent(LAST);
    // It finds the end of the connection after it has read what the master sent.
    let lost = agent.stderr().matches("was lost").count();
    agent.resume_until("the agent has noticed", || {
        agent.stderr().matches("was lost").count() > lost
    });
    case.cluster.restart_agent(LAST);
    case.waits_until_it_is_restored();
}

#[test]
fn a_dsmd_that_is_killed_during_a_restore_shows_no_half_of_it_and_the_restore_completes() {
    let case = Case::new("dsmd");
    let mut restorer = case.half_restored();
    case.cluster.restart(0);
    case.cluster.restart(1);
    case.waits();
    case.cluster.kill(2);
    case.cluster
        .agent(LAST)
        .resume_until("the restore ends", || restorer.has_ended());
    assert!(restorer.0.wait().unwrap().success());
    case.cluster.start_server(2);
    assert!(case.cluster.read_all() == case.in_snapshot);
}

#[test]
fn everything_that_is_killed_at_once_leaves_a_memory_that_waits() {
    let case = Case::new("all");
    let mut restorer = case.half_restored();
    (0..3).for_each(|server| case.cluster.kill(server));
    restorer.kill();
    (0..3).for_each(|server| case.cluster.kill_agent(server));
    (0..3).for_each(|server| case.cluster.start_server(server));
    case.waits();
    case.cluster.start_agents();
    case.waits_until_it_is_restored();
}

#[test]
fn a_memory_that_waits_can_be_accepted_as_zeros() {
    let case = Case::new("accepted");
    let before = case.cluster.incarnations();
    case.half_restored().kill();
    (0..3).for_each(|server| case.cluster.restart_agent(server));
    case.waits();
    let said = case
        .cluster
        .dsmctl("memory accept-empty 1")
        .prints()
        .to_owned();
    assert!(said.contains("server 1"), "{said}");
    let server = |index: usize| client(&case.cluster).read((index * K) as u64, K as u64);
    assert!(server(1).unwrap().iter().all(|byte| *byte == 0));
    case.cluster.assert_memory_closed(0);
    case.cluster.assert_memory_closed(2);

    // Only the servers that still wait.
    client(&case.cluster).write(K as u64, b"new life").unwrap();
    let run = case.cluster.dsmctl("memory accept-empty --json");
    let accepted: Vec<u64> = run
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["index"].as_u64().unwrap())
        .collect();
    assert_eq!((run.code, accepted), (0, vec![0, 2]));
    let mut expected = vec![0; 3 * K];
    expected[K..K + 8].copy_from_slice(b"new life");
    assert!(case.cluster.read_all() == expected);
    let after = case.cluster.incarnations();
    assert!((0..3).all(|server| before[server] != after[server]));
    // No server waits any more: the command says so, and throws nothing away.
    let run = case.cluster.dsmctl("memory accept-empty");
    println!("{}", run.stderr);
    run.fails(65, &["server 0", "server 1", "server 2", "in use"]);
    assert!(case.cluster.read_all() == expected && case.cluster.incarnations() == after);
}

#[test]
fn an_agent_that_is_down_before_the_first_change_leaves_the_memory_as_it_was() {
    let case = Case::new("down");
    let before = case.cluster.incarnations();
    case.cluster.kill_agent(2);
    let run = case.restore();
    println!("{}", run.stderr);
    run.fails(
        69,
        &["nothing was restored", "as it was", "agent of server 2"],
    );
    case.is_as_it_was(&before);
}

#[test]
fn an_agent_that_dies_before_the_first_change_leaves_the_memory_as_it_was() {
    let case = Case::new("shut");
    let before = case.cluster.incarnations();
    case.cluster
        .restart_agent_with(1, &[("DSM_TEST_DIE_AT", "shut")]);
    let run = case.restore();
    println!("{}", run.stderr);
    run.fails(
        69,
        &[
            "cut short",
            "agent of server 1",
            "The memory of server 1",
            "dsmctl status",
        ],
    );
    // Its dsmd detects that within about a second.
    wait_for("server 1 is in use", TEST_TIMEOUT, || {
        case.cluster.probe(1).code == 0
    });
    case.is_as_it_was(&before);
    case.cluster.restart_agent(1);
    case.restore().prints();
    assert!(case.cluster.read_all() == case.in_snapshot);
}

#[test]
fn an_agent_that_dies_in_the_freeze_leaves_the_memory_as_it_was() {
    let case = Case::new("frozen");
    let before = case.cluster.incarnations();
    case.cluster
        .restart_agent_with(1, &[("DSM_TEST_DIE_AT", "frozen")]);
    let run = case.restore();
    println!("{}", run.stderr);
    run.fails(
        69,
        &["nothing was restored", "as it was", "agent of server 1"],
    );
    case.is_as_it_was(&before);
    case.cluster.restart_agent(1);
    case.restore().prints();
    assert!(case.cluster.read_all() == case.in_snapshot);
}

#[test]
fn a_server_whose_agent_dies_when_the_others_are_opened_is_opened_by_the_next_agent() {
    let case = Case::new("opening");
    case.cluster
        .restart_agent_with(1, &[("DSM_TEST_DIE_AT", "opening")]);
    let run = std::thread::scope(|scope| {
        let restore = scope.spawn(|| case.restore());
        // Starts the next agent, as the service manager does.
        case.cluster.agent(1).wait();
        case.cluster.start_agent(1);
        restore.join().unwrap()
    });
    run.prints();
    assert!(
        case.cluster.read_all() == case.in_snapshot,
        "what was restored is not what was in the snapshot"
    );
}
