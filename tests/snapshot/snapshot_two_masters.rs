//! Two masters at once: both end cleanly, one has the snapshot, and the other says that one is
//! under way.

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

/// The most that one begins after the other, in microseconds: less than a run takes.
const APART: u64 = 20_000;

const STOP_AT_CUT: Environment<'static> = &[("DSM_TEST_STOP_AT", "cut")];

/// How many pairs of masters are started together.
fn pairs() -> usize {
    count(20, 200)
}

fn cluster() -> Cluster {
    // The time of a freeze is another test's business.
    let settings = "keep = 1000\nfreeze_timeout = \"5s\"\ntimeout = \"2m\"";
    let cluster = Cluster::builder()
        .servers(SERVERS)
        .k(K)
        .snapshot(settings)
        .start();
    cluster.start_agents();
    cluster
}

/// Takes the file of `dsmctl snapshot create --output` out of the way; it is whole, if it is there.
fn take_output(path: &PathBuf) -> bool {
    let there = path.exists();
    if there {
        ring::check_snapshot(path);
        std::fs::remove_file(path).expect("a file of this test");
    }
    there
}

/// The exit codes of two masters: at least one has succeeded, and the other may have found it under
/// way.
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
fn of_two_masters_that_start_together_one_at_least_has_a_snapshot_and_no_file_is_broken() {
    let cluster = cluster();
    let ring = Ring::start(&cluster);
    let mut random = Random::new("snapshot_two_masters");
    let output = cluster.directory().join("output.dsnap");
    let (mut both, mut files, pairs) = (0, 0, pairs());
    for pair in 0..pairs {
        let first = cluster.spawn_master(&[], &[]);
        std::thread::sleep(Duration::from_micros(random.within(0, APART)));
        // Alternately two in different directories, and two in the same one.
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
        "{pairs} pairs: in {both} both had a snapshot, in {} one said that another is under way",
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

/// One master stands still in the middle; another is started, and must say so; then the first one
/// ends in some way.
fn while_one_stands_still(of_dsmctl: bool, killed: bool) {
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
        first.go_on();
        assert_eq!(first.wait().code, 0, "it goes on where it stood");
        assert_eq!(
            (take_output(&output), cluster.snapshots().len()),
            (of_dsmctl, usize::from(!of_dsmctl))
        );
    }
    // The agents find that their master is gone, and the other one has its turn.
    wait_for("the next master succeeds", support::wire::PATIENCE, || {
        let next = start(!of_dsmctl, &[]).wait();
        assert!(
            [0, UNDER_WAY].contains(&next.code),
            "exit code {}: {}",
            next.code,
            next.stderr
        );
        next.code == 0
    });
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
    while_one_stands_still(false, false);
    while_one_stands_still(true, false);
}

#[test]
fn a_second_master_says_that_a_snapshot_is_under_way_and_succeeds_after_the_first_one_was_killed() {
    while_one_stands_still(false, true);
    while_one_stands_still(true, true);
}

/// The machine of server 1 cannot reach that of server 0, and takes itself for the master; server 2
/// hears both.
#[test]
fn masters_on_both_sides_of_a_split_network_end_cleanly() {
    let cluster = cluster();
    let ring = Ring::start(&cluster);
    let text = std::fs::read_to_string(cluster.config_path()).expect("the configuration");
    // Nobody listens on the ports after the agents'.
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
        // Now the one is ahead, now the other.
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
