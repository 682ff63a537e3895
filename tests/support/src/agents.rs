//! Snapshot agents and masters of a [`Cluster`]. A test chooses the environment of each: see
//! `crates/dsm-snapshot/src/phase.rs`.

use super::dsmctl::Run;
use super::program::{ChildProgram, built};
use super::{Cluster, wait_for};
use dsm_snapshot::SnapshotFile;
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Variables for a program's environment, such as `[("DSM_TEST_DIE_AT", "cut")]`.
pub type Environment<'a> = &'a [(&'a str, &'a str)];

/// The longest time until the snapshot lock of a dead owner is free: a server checks every second.
/// After a freeze of half a second or more, agents refuse a new snapshot for a few seconds, so that
/// writers make progress.
pub const LOCK_RELEASE_TIMEOUT: Duration = Duration::from_secs(20);

/// The exit code when another snapshot is under way: `EX_TEMPFAIL` of sysexits(3).
pub const UNDER_WAY: i32 = 75;

/// The exit code when an agent cannot be reached or has failed: `EX_UNAVAILABLE` of sysexits(3).
pub const UNAVAILABLE: i32 = 69;

/// How many masters this process has started. The number names the file of a master's stderr.
static MASTERS: AtomicUsize = AtomicUsize::new(0);

/// A run of `dsm-snapshot create` or `dsmctl snapshot create`. Dropping this kills it.
pub struct Master(ChildProgram);

/// Whether a master has failed because the freeze lasted too long. A busy machine is enough for
/// that.
pub fn is_freeze_timeout(run: &Run) -> bool {
    let late = [
        "kept out for longer than allowed",
        "did not keep its writers out within",
    ];
    run.code == UNAVAILABLE && late.iter().any(|words| run.stderr.contains(words))
}

/// Whether a master has failed for a temporary reason: another snapshot is under way, agents refuse
/// one for a while after a long freeze, or this master's own freeze lasted too long.
pub fn is_temporary(run: &Run) -> bool {
    run.code == UNDER_WAY || is_freeze_timeout(run)
}

/// Whether a master has failed because an agent took longer than `snapshot.timeout`. On a busy
/// machine that happens in tests that make the timeout short.
pub fn is_agent_timeout(run: &Run) -> bool {
    let late = run.stderr.contains(" did not ") && run.stderr.contains(" within ");
    run.code == UNAVAILABLE && (late || run.stderr.contains("timed out"))
}

impl Cluster {
    /// Starts the agent of every server and waits until all listen.
    pub fn start_agents(&self) {
        (0..self.n()).for_each(|index| self.start_agent(index));
    }

    /// Starts the agent of server `index` and waits until it listens.
    pub fn start_agent(&self, index: usize) {
        self.start_agent_with(index, &[]);
    }

    /// [`Self::start_agent`] with more environment variables.
    pub fn start_agent_with(&self, index: usize, environment: Environment<'_>) {
        let mut command = self.snapshot_command(index);
        self.agent(index)
            .spawn(command.arg("agent").envs(environment.iter().copied()));
        self.agent(index)
            .wait_until_ready(self.agent_address(index));
    }

    /// Kills the agent of server `index` if it runs, starts it and waits until it listens.
    pub fn restart_agent(&self, index: usize) {
        self.restart_agent_with(index, &[]);
    }

    /// [`Self::restart_agent`] with more environment variables.
    pub fn restart_agent_with(&self, index: usize, environment: Environment<'_>) {
        self.kill_agent(index);
        self.start_agent_with(index, environment);
    }

    /// Kills the agent of server `index` if it runs.
    pub fn kill_agent(&self, index: usize) {
        self.agent(index).kill();
    }

    /// A command line of `dsm-snapshot` with its configuration and index, but without a subcommand.
    pub fn snapshot_command(&self, index: usize) -> Command {
        let mut command = Command::new(built("dsm-snapshot"));
        command
            .arg("--config")
            .arg(self.config_path_of(index))
            .arg("--index")
            .arg(index.to_string());
        command
            .env_remove("DSM_CONFIG")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("JOURNAL_STREAM");
        command
    }

    /// Starts a master on the machine of server 0 without waiting for it.
    pub fn spawn_master(&self, arguments: &[&str], environment: Environment<'_>) -> Master {
        let mut command = self.snapshot_command(0);
        self.spawn_as_master(command.arg("create").args(arguments), environment)
    }

    /// Starts `dsmctl snapshot create` without waiting for it.
    pub fn spawn_dsmctl_create(&self, output: &Path, environment: Environment<'_>) -> Master {
        let mut command = Command::new(built("dsmctl"));
        command
            .env("DSM_CONFIG", self.config_path())
            .args(["snapshot", "create", "--output"])
            .arg(output);
        self.spawn_as_master(&mut command, environment)
    }

    /// Starts `command`, which is a master, without waiting for it.
    pub fn spawn_as_master(&self, command: &mut Command, environment: Environment<'_>) -> Master {
        let number = MASTERS.fetch_add(1, Ordering::Relaxed);
        let stderr = self.directory().join(format!("stderr.master.{number}"));
        let master = Master(ChildProgram::new(format!("master {number}"), stderr));
        master.0.spawn(command.envs(environment.iter().copied()));
        master
    }

    /// Runs a master to its end.
    pub fn create_snapshot(&self, environment: Environment<'_>) -> Run {
        self.spawn_master(&[], environment).wait()
    }

    /// Runs a master to its end, and retries while agents refuse it after the freezes of earlier
    /// masters. Returns the duration of the last run, too.
    pub fn create_after_backoff(&self, arguments: &[&str]) -> (Run, Duration) {
        let mut ended = None;
        wait_for(
            "the agents allow another snapshot",
            LOCK_RELEASE_TIMEOUT,
            || {
                let began = Instant::now();
                let run = self.spawn_master(arguments, &[]).wait();
                ended.insert((run, began.elapsed())).0.code != UNDER_WAY
            },
        );
        ended.expect("a run")
    }

    /// Takes a snapshot and opens it. Retries while another snapshot is under way, as after the
    /// death of an agent, and while the machine is too busy for the freeze.
    ///
    /// # Panics
    /// When the snapshot fails for another reason, the other snapshot does not end, or the file is
    /// not valid.
    pub fn snapshot(&self) -> SnapshotFile {
        let before = self.snapshots();
        wait_for(
            "no other snapshot is under way",
            LOCK_RELEASE_TIMEOUT,
            || {
                let run = self.create_snapshot(&[]);
                assert!(
                    run.code == 0 || is_temporary(&run),
                    "exit code {}: {}",
                    run.code,
                    run.stderr
                );
                // An agent that was stopped until a moment ago may answer too late to be the master.
                run.code == 0 && !run.stderr.contains("is the master, since its agent")
            },
        );
        let added: Vec<PathBuf> = self
            .snapshots()
            .into_iter()
            .filter(|path| !before.contains(path))
            .collect();
        assert_eq!(added.len(), 1, "one new file: {added:?}");
        let file = SnapshotFile::open(&added[0]).expect("the new file is valid");
        file.verify(|_, _| {}).expect("the new file is valid");
        file
    }

    /// The directory of the snapshots.
    pub fn snapshot_directory(&self) -> PathBuf {
        self.directory().join("snapshots")
    }

    /// The paths of the snapshots, the oldest first.
    pub fn snapshots(&self) -> Vec<PathBuf> {
        let listed = dsm_snapshot::list(&self.snapshot_directory(), self.name())
            .expect("the snapshot directory");
        listed
            .into_iter()
            .map(|file| self.snapshot_directory().join(file.name))
            .collect()
    }

    /// The files of snapshots that a master has not finished.
    pub fn partials(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.snapshot_directory()).expect("the snapshot directory");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "partial")
            })
            .collect()
    }

    /// Waits until the pages that writers saved for a snapshot are removed.
    pub fn wait_until_copy_areas_are_empty(&self) {
        let area = |server: usize| format!("/dev/shm/{}.{server}.copies", self.name());
        wait_for("the copy areas are empty", LOCK_RELEASE_TIMEOUT, || {
            (0..self.n())
                .all(|server| std::fs::metadata(area(server)).expect("a copy area").len() == 0)
        });
    }
}

impl Master {
    /// Waits until the process has ended. If a signal killed it, the code is the negative number of
    /// that signal.
    pub fn wait(self) -> Run {
        let code = self.0.wait_for_code();
        Run {
            code,
            stdout: Vec::new(),
            stderr: self.0.stderr(),
        }
    }

    /// The process.
    pub fn program(&self) -> &ChildProgram {
        &self.0
    }

    /// Waits until `DSM_TEST_STOP_AT` has stopped the process.
    pub fn wait_until_stopped(&self) {
        self.0.wait_until_stopped();
    }

    /// Sends SIGCONT to the stopped process.
    pub fn resume(&self) {
        self.0.signal(Signal::SIGCONT);
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) {
        self.0.signal(signal);
    }
}
