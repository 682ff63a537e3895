//! Two masters at once: both end cleanly, at least one takes a snapshot, and a master that is
//! refused says that one is under way.

use dsm_snapshot::SnapshotFile;
use dsm_snapshot::retention::Standing;
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use support::agents::{Environment, Master, UNDER_WAY};
use support::counts::count;
use support::random::Random;
use support::ring::{self, Ring};
use support::{Cluster, wait_for};

const SERVERS: usize = 3;
const K: u64 = 256 * 1024;

/// The longest time between the starts of the two, in microseconds: less than a run takes.
const APART: u64 = 20_000;

const STOP_AT_CUT: Environment<'static> = &[("DSM_TEST_STOP_AT", "cut")];

/// How many pairs of masters are started together.
fn pairs() -> usize {
    count(20, 200)
}

fn cluster() -> Cluster {
    // Other tests check the length of a freeze.
    let settings = "keep = 1000\nfreeze_timeout = \"5s\"\ntimeout = \"2m\"";
    let cluster = Cluster::builder()
        .servers(SERVERS)
        .k(K)
        .snapshot(settings)
        .start();
    cluster.start_agents();
    cluster
}

/// Checks and removes the file of `dsmctl snapshot create --output`. Returns whether it existed.
fn take_output(path: &PathBuf) -> bool {
    let there = path.exists();
    if there {
        ring::check_snapshot(path);
        std::fs::remove_file(path).expect("a file of this test");
    }
    there
}

/// Waits for two masters and returns whether each succeeded. At least one has to; the other may
/// have failed because a snapshot was under way.
fn end(pair: [Master; 2]) -> [bool; 2] {
    let ended = pair.map(|master| {
        let run = master.wait();
        assert!(
            run.code == 0 || run.code == UNDER_WAY,
            "exit code {}: {}",
            run.code,
            run.stderr
        );
        assert!(
            run.code == 0 || run.stderr.contains("is under way"),
            "{}",
            run.stderr
        );
        run.code == 0
    });
    assert!(
        ended.contains(&true),
        "neither of two masters has taken a snapshot"
    );
    ended
}

#[test]
fn of_two_masters_that_start_together_at_least_one_takes_a_snapshot_and_no_file_is_broken() {
    let cluster = cluster();
    let ring = Ring::start(&cluster);
    let mut random = Random::new("snapshot_two_masters");
    let output = cluster.directory().join("output.dsnap");
    let (mut both, mut files, pairs) = (0, 0, pairs());
    for pair in 0..pairs {
        let first = cluster.spawn_master(&[], &[]);
        std::thread::sleep(Duration::from_micros(random.within(0, APART)));
        // Alternately two files in different directories, and two in the same directory.
        let to_output = pair % 2 == 0;
        let second = if to_output {
            cluster.spawn_dsmctl_create(&output, &[])
        } else {
            cluster.spawn_master(&[], &[])
        };
        let ended = end([first, second]);
        both += usize::from(ended == [true, true]);
        files += usize::from(ended[0]) + usize::from(ended[1] && !to_output);
        assert_eq!(take_output(&output), ended[1] && to_output);
        assert_eq!(
            cluster.snapshots().len(),
            files,
            "a file for each that succeeded"
        );
    }
    println!(
        "{pairs} pairs: in {both} both took a snapshot, in {} one said that another is under way",
        pairs - both
    );
    cluster
        .snapshots()
        .iter()
        .for_each(|path| ring::check_snapshot(path));
    assert!(cluster.partials().is_empty());
    cluster.wait_until_copy_areas_are_empty();
    ring.stop();
}

/// One master is stopped during its snapshot, and a second one must say that a snapshot is under
/// way. Then the first one is continued or killed.
fn while_one_is_stopped(of_dsmctl: bool, killed: bool) {
    let cluster = cluster();
    let ring = Ring::start(&cluster);
    let output = cluster.directory().join("output.dsnap");
    let start = |dsmctl: bool, environment: Environment<'_>| {
        if dsmctl {
            cluster.spawn_dsmctl_create(&output, environment)
        } else {
            cluster.spawn_master(&[], environment)
        }
    };
    let first = start(of_dsmctl, STOP_AT_CUT);
    first.wait_until_stopped();
    start(!of_dsmctl, &[]).wait().fails(
        UNDER_WAY,
        &["a snapshot or a restore of server 0 is under way"],
    );
    assert!(cluster.snapshots().is_empty() && cluster.partials().is_empty() && !output.exists());
    if killed {
        first.signal(Signal::SIGKILL);
        assert_eq!(first.wait().code, -(Signal::SIGKILL as i32));
    } else {
        first.resume();
        assert_eq!(
            first.wait().code,
            0,
            "the master that is continued completes its snapshot"
        );
        assert_eq!(
            (take_output(&output), cluster.snapshots().len()),
            (of_dsmctl, usize::from(!of_dsmctl))
        );
    }
    // The agents detect the end of their master, and the next one succeeds.
    wait_for(
        "the next master succeeds",
        support::wire::TEST_TIMEOUT,
        || {
            let next = start(!of_dsmctl, &[]).wait();
            assert!(
                [0, UNDER_WAY].contains(&next.code),
                "exit code {}: {}",
                next.code,
                next.stderr
            );
            next.code == 0
        },
    );
    take_output(&output);
    cluster
        .snapshots()
        .iter()
        .for_each(|path| ring::check_snapshot(path));
    assert!(cluster.partials().is_empty());
    cluster.wait_until_copy_areas_are_empty();
    ring.stop();
}

#[test]
fn a_second_master_says_that_a_snapshot_is_under_way_and_succeeds_after_the_first_one_has() {
    while_one_is_stopped(false, false);
    while_one_is_stopped(true, false);
}

#[test]
fn a_second_master_says_that_a_snapshot_is_under_way_and_succeeds_after_the_first_one_was_killed() {
    while_one_is_stopped(false, true);
    while_one_is_stopped(true, true);
}

/// The machine of server 1 cannot reach that of server 0, and considers itself the master. Server 2
/// is reached by both.
#[test]
fn masters_on_both_sides_of_a_split_network_end_cleanly() {
    let cluster = cluster();
    let ring = Ring::start(&cluster);
    let text = std::fs::read_to_string(cluster.config_path()).expect("the configuration");
    // No process listens on the ports after the agents'.
    let nowhere = cluster.agent_address(0).replace(":7511", ":7599");
    let (split, directory) = (
        cluster.directory().join("split.cfg"),
        cluster.directory().join("others"),
    );
    std::fs::create_dir(&directory).expect("a folder");
    let own = cluster.snapshot_directory().display().to_string();
    let text = text
        .replace(cluster.agent_address(0), &nowhere)
        .replace(&own, &directory.display().to_string());
    std::fs::write(&split, text).expect("another configuration");

    let mut random = Random::new("snapshot_two_masters");
    let (mut here, mut there, pairs) = (0, 0, pairs());
    for pair in 0..pairs {
        let mut other = Command::new(env!("CARGO_BIN_EXE_dsm-snapshot"));
        other
            .arg("--config")
            .arg(&split)
            .args(["--index", "1", "create", "--allow-partial"]);
        let mut spawn = |first: bool| {
            if first {
                cluster.spawn_master(&[], &[])
            } else {
                cluster.spawn_as_master(&mut other, &[])
            }
        };
        // The two take turns in starting first.
        let first_is_here = pair % 2 == 0;
        let first = spawn(first_is_here);
        std::thread::sleep(Duration::from_micros(random.within(0, APART)));
        let mut ended = end([first, spawn(!first_is_here)]);
        if !first_is_here {
            ended.reverse();
        }
        here += usize::from(ended[0]);
        there += usize::from(ended[1]);
    }
    let others = dsm_snapshot::list(&directory, cluster.name()).expect("the other directory");
    println!(
        "{pairs} pairs: {here} snapshots of all servers, {there} without server 0, no other file"
    );
    assert_eq!((cluster.snapshots().len(), others.len()), (here, there));
    cluster
        .snapshots()
        .iter()
        .for_each(|path| ring::check_snapshot(path));
    for other in others {
        assert_eq!(other.standing, Standing::Partial);
        SnapshotFile::open(&other.path)
            .and_then(|file| file.verify(|_, _| {}))
            .expect("a sound file");
    }
    cluster.wait_until_copy_areas_are_empty();
    ring.stop();
}
