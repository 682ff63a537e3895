//! SIGKILL and SIGSTOP of a master, an agent and a dsmd at every phase of a snapshot, under load:
//! writers wait for at most the lease, there is a whole file or none, and the next run succeeds and
//! leaves nothing behind.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};
use support::agents::{
    Environment, LOCK_RELEASE_TIMEOUT, Master, UNAVAILABLE, is_freeze_timeout, is_temporary,
};
use support::counts::count;
use support::dsmctl::Run;
use support::process::state;
use support::random::Random;
use support::ring::{self, Ring};
use support::{Cluster, wait_for};

const SERVERS: usize = 3;
const K: u64 = 256 * 1024;

/// The default of `snapshot.freeze_timeout`.
const LEASE: Duration = Duration::from_millis(500);

/// The additional time on a busy machine.
const SLACK: Duration = Duration::from_secs(1);

/// The phases that a master and an agent reach.
const PHASES_OF_A_MASTER: [&str; 5] = ["frozen", "cut", "copying", "written", "renamed"];
const PHASES_OF_AN_AGENT: [&str; 3] = ["frozen", "cut", "copying"];

const DIE_AT: &str = "DSM_TEST_DIE_AT";
const STOP_AT: &str = "DSM_TEST_STOP_AT";

/// How long a server may take to detect that an agent has died: it checks every second.
const TIDY: Duration = Duration::from_secs(10);

/// About how long a run takes, in microseconds.
const LONGEST_RUN: u64 = 80_000;

/// Servers and agents under load.
struct Scene {
    // Declared before the servers, so that it is dropped first: without them it would fail.
    ring: Ring,
    cluster: Cluster,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    fn new() -> Self {
        let alone = support::one_at_a_time();
        let cluster = Cluster::builder()
            .servers(SERVERS)
            .k(K)
            .snapshot("timeout = \"2s\"\nkeep = 1000")
            .start();
        cluster.start_agents();
        let ring = Ring::start(&cluster);
        cluster.snapshot();
        Self {
            ring,
            cluster,
            _alone: alone,
        }
    }

    /// Runs `harm`, which disturbs a snapshot, and checks what must hold afterwards. Returns the
    /// files that it left and the longest time that a writer waited for each server.
    fn survive(&self, what: &str, harm: impl FnOnce(&Cluster)) -> (Vec<PathBuf>, Vec<Duration>) {
        let began = Instant::now();
        let before = self.cluster.snapshots();
        self.ring.wait_until_all_progress();
        self.ring.take_longest();
        harm(&self.cluster);
        self.ring.wait_until_all_progress();
        let longest = self.ring.take_longest();
        assert!(
            longest.iter().all(|longest| *longest <= LEASE + SLACK),
            "{what}: writers waited {longest:?}"
        );

        let after = self.cluster.snapshots();
        after.iter().for_each(|path| ring::check_snapshot(path));
        let list = support::dsmctl::run(
            self.cluster.directory(),
            &self.cluster.config_path(),
            "snapshot list",
            b"",
        );
        assert!(
            !list.prints().contains(".partial"),
            "{what}: {}",
            list.text()
        );
        let partials = self.cluster.partials().len();

        ring::check_snapshot(self.cluster.snapshot().path());
        assert!(
            self.cluster.partials().is_empty(),
            "{what}: the next run removes what was left"
        );
        self.cluster.wait_until_copy_areas_are_empty();
        println!(
            "{what}: longest requests {longest:?}, new files {}, partial files left {partials}, {:?} in all",
            after.len() - before.len(),
            began.elapsed()
        );
        (
            after
                .into_iter()
                .filter(|path| !before.contains(path))
                .collect(),
            longest,
        )
    }

    fn end(self) {
        self.ring.stop();
    }
}

/// Runs masters until one is refused neither because its freeze came late, as on a busy machine,
/// nor because writers have their pause after the last freeze.
fn run_master(cluster: &Cluster, environment: Environment<'_>) -> Run {
    let mut run = None;
    wait_for("a freeze in time", LOCK_RELEASE_TIMEOUT, || {
        !is_temporary(run.insert(cluster.create_snapshot(environment)))
    });
    run.unwrap()
}

/// Starts masters until one is stopped at a phase, or the agent of a server is, if that is given.
fn stop_at(cluster: &Cluster, agent: Option<usize>, phase: &str) -> Master {
    let stop = [(STOP_AT, phase)];
    if let Some(agent) = agent {
        cluster.restart_agent_with(agent, &stop);
    }
    let deadline = Instant::now() + LOCK_RELEASE_TIMEOUT;
    while Instant::now() < deadline {
        let master = cluster.spawn_master(&[], if agent.is_none() { &stop } else { &[] });
        let stopped = agent.map_or(master.program(), |agent| cluster.agent(agent));
        wait_for("the process is stopped", TIDY, || {
            stopped.has_stopped() || master.program().has_stopped()
        });
        if state(stopped.pid()) == 'T' {
            return master;
        }
        let run = master.wait();
        assert!(is_temporary(&run), "exit code {}: {}", run.code, run.stderr);
    }
    panic!("the machine is too busy for a freeze");
}

#[test]
fn a_master_killed_at_any_phase_leaves_a_whole_file_or_none_and_the_next_one_cleans_up() {
    let scene = Scene::new();
    for phase in PHASES_OF_A_MASTER {
        let (new, _) = scene.survive(&format!("master killed when {phase}"), |cluster| {
            let run = run_master(cluster, &[(DIE_AT, phase)]);
            assert_eq!(run.code, -(Signal::SIGKILL as i32), "{}", run.stderr);
            let begun = ["copying", "written"].contains(&phase);
            assert_eq!(cluster.partials().len(), usize::from(begun), "{phase}");
        });
        assert_eq!(
            new.len(),
            usize::from(phase == "renamed"),
            "{phase}: {new:?}"
        );
    }
    scene.end();
}

#[test]
fn the_partial_file_of_a_killed_create_is_removed_by_the_next_one_in_its_directory() {
    let cluster = Cluster::start(1, K);
    cluster.start_agents();
    support::client(&cluster)
        .write(0, b"not only zeros")
        .unwrap();
    let elsewhere = cluster.directory().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let killed = cluster
        .spawn_dsmctl_create(&elsewhere.join("first.dsnap"), &[(DIE_AT, "copying")])
        .wait();
    assert_eq!(killed.code, -(Signal::SIGKILL as i32), "{}", killed.stderr);
    assert_eq!(
        support::snapshots::names(&elsewhere),
        ["first.dsnap.partial"]
    );
    wait_for("the agent has released the snapshot lock", TIDY, || {
        cluster
            .spawn_dsmctl_create(&elsewhere.join("second.dsnap"), &[])
            .wait()
            .code
            == 0
    });
    assert_eq!(support::snapshots::names(&elsewhere), ["second.dsnap"]);
}

#[test]
fn an_agent_killed_at_any_phase_is_named_and_its_cut_is_ended_by_the_server() {
    let scene = Scene::new();
    for (victim, phase) in PHASES_OF_AN_AGENT.into_iter().enumerate() {
        let (new, _) = scene.survive(&format!("agent {victim} killed when {phase}"), |cluster| {
            cluster.restart_agent_with(victim, &[(DIE_AT, phase)]);
            let run = run_master(cluster, &[]);
            run.fails(
                UNAVAILABLE,
                &[&format!(
                    "server {victim} ({})",
                    cluster.agent_address(victim)
                )],
            );
            assert!(
                cluster.partials().is_empty(),
                "{phase}: the master removes its partial file"
            );
            assert_eq!(
                cluster.agent(victim).wait_for_code(),
                -(Signal::SIGKILL as i32)
            );
            if phase != "frozen" {
                let ended = || {
                    cluster
                        .stderr(victim)
                        .contains("was abandoned because its agent died")
                };
                wait_for("the server ends the cut of its dead agent", TIDY, ended);
                cluster.wait_until_copy_areas_are_empty();
            }
            cluster.start_agent(victim);
        });
        assert!(new.is_empty(), "{phase}: {new:?}");
    }
    scene.end();
}

#[test]
fn an_agent_and_its_dsmd_killed_together_leave_no_cut_behind() {
    let scene = Scene::new();
    for (victim, phase) in PHASES_OF_AN_AGENT.into_iter().enumerate() {
        let (new, _) = scene.survive(
            &format!("agent {victim} and its dsmd killed when {phase}"),
            |cluster| {
                let master = stop_at(cluster, Some(victim), phase);
                cluster.kill_agent(victim);
                cluster.restart(victim);
                scene.ring.is_ready(victim);
                master
                    .wait()
                    .fails(UNAVAILABLE, &[cluster.agent_address(victim)]);
                // The server ends the cut, because no agent is left to do it.
                cluster.wait_until_copy_areas_are_empty();
                cluster.start_agent(victim);
            },
        );
        assert!(new.is_empty(), "{phase}: {new:?}");
    }
    scene.end();
}

#[test]
fn a_kill_of_any_process_at_any_moment_leaves_a_whole_file_or_none() {
    let scene = Scene::new();
    let mut random = Random::new("snapshot_kills");
    let (mut files, mut failures, kills) = (0, 0, count(30, 300));
    for kill in 0..kills {
        let (who, victim) = (["master", "agent", "dsmd"][kill % 3], random.index(SERVERS));
        let moment = Duration::from_micros(random.within(0, LONGEST_RUN));
        let (new, _) = scene.survive(
            &format!("{who} {victim} killed after {moment:?}"),
            |cluster| {
                let master = cluster.spawn_master(&[], &[]);
                std::thread::sleep(moment);
                match who {
                    "master" => master.signal(Signal::SIGKILL),
                    "agent" => cluster.restart_agent(victim),
                    _ => {
                        cluster.restart(victim);
                        scene.ring.is_ready(victim);
                    }
                }
                let run = master.wait();
                let expected = [
                    0,
                    if who == "master" {
                        -(Signal::SIGKILL as i32)
                    } else {
                        UNAVAILABLE
                    },
                ];
                assert!(
                    expected.contains(&run.code) || is_temporary(&run),
                    "exit code {}: {}",
                    run.code,
                    run.stderr
                );
                failures += usize::from(run.code != 0);
            },
        );
        files += new.len();
    }
    println!(
        "{kills} kills at random moments: {files} whole files, {failures} runs that failed, nothing else"
    );
    scene.end();
}

#[test]
fn a_dsmd_killed_at_any_phase_does_not_keep_the_snapshot_from_being_whole_or_absent() {
    let scene = Scene::new();
    let of_master = PHASES_OF_A_MASTER.map(|phase| (true, phase));
    let of_agent = PHASES_OF_AN_AGENT.map(|phase| (false, phase));
    for (number, (stops_master, phase)) in of_master.into_iter().chain(of_agent).enumerate() {
        let victim = number % SERVERS;
        let who = if stops_master {
            "the master"
        } else {
            "its agent"
        };
        let (new, _) = scene.survive(
            &format!("dsmd {victim} killed when {who} was at {phase}"),
            |cluster| {
                let master = stop_at(cluster, (!stops_master).then_some(victim), phase);
                let stopped = if stops_master {
                    master.program()
                } else {
                    cluster.agent(victim)
                };
                cluster.kill(victim);
                stopped.signal(Signal::SIGCONT);
                cluster.start_server(victim);
                scene.ring.is_ready(victim);
                let run = master.wait();
                // Agents read the memory without dsmd, so only the end of a lease can make the run
                // fail.
                assert!(
                    run.code == 0 || phase == "frozen" && is_freeze_timeout(&run),
                    "exit code {}: {}",
                    run.code,
                    run.stderr
                );
            },
        );
        assert!(new.len() == 1 || phase == "frozen", "{phase}: {new:?}");
    }
    scene.end();
}

#[test]
fn a_stopped_agent_is_named_and_holds_writers_no_longer_than_the_lease() {
    let scene = Scene::new();
    for (victim, phase) in PHASES_OF_AN_AGENT.into_iter().enumerate() {
        let (new, longest) =
            scene.survive(&format!("agent {victim} stopped when {phase}"), |cluster| {
                let named = format!(
                    "the snapshot agent of server {victim} ({}) did not",
                    cluster.agent_address(victim)
                );
                stop_at(cluster, Some(victim), phase)
                    .wait()
                    .fails(UNAVAILABLE, &[&named]);
                // The next run finds the agent stopped, too. It is one of dsmctl, which is the
                // master regardless of which agents answer.
                let output = cluster.directory().join("output.dsnap");
                cluster
                    .spawn_dsmctl_create(&output, &[])
                    .wait()
                    .fails(UNAVAILABLE, &[&named]);
                assert!(!output.exists());
                assert!(cluster.partials().is_empty(), "{phase}");
                cluster.agent(victim).signal(Signal::SIGCONT);
            });
        assert!(new.is_empty(), "{phase}: {new:?}");
        // Otherwise this test would not notice a writer that waits.
        let waited = longest.iter().any(|longest| *longest >= LEASE / 2);
        assert!(waited || phase != "frozen", "writers waited {longest:?}");
    }
    scene.end();
}

#[test]
fn a_stopped_master_holds_writers_no_longer_than_the_lease_and_is_told_that_it_is_late() {
    let scene = Scene::new();
    let (new, longest) = scene.survive("master stopped when frozen", |cluster| {
        let late = stop_at(cluster, None, "frozen");
        // Its lease ends while it is stopped, and with the lease its snapshot lock.
        let next = cluster.snapshot();
        ring::check_snapshot(next.path());
        std::fs::remove_file(next.path()).unwrap();
        late.resume();
        let first = format!("server 0 ({})", cluster.agent_address(0));
        late.wait()
            .fails(UNAVAILABLE, &[&first, "kept out for longer than allowed"]);
        assert!(cluster.partials().is_empty());
    });
    assert!(new.is_empty(), "{new:?}");
    assert!(
        longest.iter().any(|longest| *longest >= LEASE / 2),
        "writers waited {longest:?}"
    );
    scene.end();
}
