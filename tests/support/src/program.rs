//! A child process of a test: starts, stops and kills it, and keeps its stderr.

use super::process::{state, wait_channels};
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a program may take to listen, on a machine that is busy with other tests.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a program may take to end. dsmd's `limits.shutdown_timeout` is 5 s, but the fsync of a
/// snapshot also waits for earlier writes of other programs: during builds, for over a minute.
const STOP_TIMEOUT: Duration = Duration::from_secs(180);

/// The path of a program of this package: the parent folder of the test's binary has it. (Cargo
/// sets `CARGO_BIN_EXE_dsmd` for tests, but not for this library.)
///
/// # Panics
/// When there is no such file.
pub fn built(program: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the binary of this test");
    let path = test
        .ancestors()
        .nth(2)
        .expect("the binary is in target/debug/deps")
        .join(program);
    assert!(
        path.is_file(),
        "{} does not exist: build it with cargo build --bins --examples",
        path.display()
    );
    path
}

/// A program that a test can start more than once. Dropping this kills its process.
///
/// Every method takes `&self`: a test may kill the process from one thread while others use it.
pub struct ChildProgram {
    name: String,
    stderr: PathBuf,
    child: Mutex<Option<Child>>,
}

impl ChildProgram {
    /// A program that does not run yet: its name in messages, and the file for its stderr.
    pub fn new(name: String, stderr: PathBuf) -> Self {
        Self {
            name,
            stderr,
            child: Mutex::new(None),
        }
    }

    /// Starts the program without waiting for it.
    ///
    /// # Panics
    /// When it already runs.
    pub fn spawn(&self, command: &mut Command) {
        let mut child = self.child();
        assert!(child.is_none(), "{} already runs", self.name);
        let mut stderr = File::options()
            .create(true)
            .append(true)
            .open(&self.stderr)
            .expect("its stderr");
        let _ = writeln!(stderr, "--- {}", line(command));
        let started = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn();
        *child = Some(started.expect("the program starts"));
    }

    /// Waits until the program accepts a connection.
    ///
    /// # Panics
    /// When the program ends, or does not listen in time. The message has its stderr.
    pub fn wait_until_ready(&self, address: &str) {
        let end = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(address).is_err() {
            let ended = self
                .child()
                .as_mut()
                .map(|child| child.try_wait().expect("wait"));
            let running = matches!(ended, Some(None));
            assert!(
                running,
                "{} is not running ({ended:?}):\n{}",
                self.name,
                self.stderr()
            );
            assert!(
                Instant::now() < end,
                "{} does not listen after {START_TIMEOUT:?}:\n{}",
                self.name,
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the process with SIGKILL, if it runs, and waits until it has ended.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until the process has ended, without sending it a signal.
    ///
    /// # Panics
    /// When it does not run, or does not end in time.
    pub fn wait(&self) -> ExitStatus {
        let mut child = self
            .child()
            .take()
            .unwrap_or_else(|| panic!("{} does not run", self.name));
        let end = Instant::now() + STOP_TIMEOUT;
        loop {
            if let Some(status) = child.try_wait().expect("wait") {
                return status;
            }
            if Instant::now() >= end {
                let channels = wait_channels(child.id());
                let _ = child.kill();
                let _ = child.wait();
                panic!(
                    "{} still runs after {STOP_TIMEOUT:?}, its threads wait in {channels:?}:\n{}",
                    self.name,
                    self.stderr()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// [`ChildProgram::wait`], with another result: the exit code, or the negative number of the signal
    /// that killed the process.
    pub fn wait_for_code(&self) -> i32 {
        let status = self.wait();
        status
            .code()
            .or(status.signal().map(|signal| -signal))
            .expect("a code or a signal")
    }

    /// Waits until a SIGSTOP, sent by itself or by another process, has stopped the process.
    ///
    /// # Panics
    /// When the process ends, or does not stop in time.
    pub fn wait_until_stopped(&self) {
        super::wait_for(
            &format!("{} is stopped", self.name),
            STOP_TIMEOUT,
            || match state(self.pid()) {
                'Z' => panic!(
                    "{} has ended instead of being stopped:\n{}",
                    self.name,
                    self.stderr()
                ),
                state => state == 'T',
            },
        );
    }

    /// Whether a signal has stopped the process, or it has ended and was not waited for.
    pub fn has_stopped(&self) -> bool {
        ['T', 'Z'].contains(&state(self.pid()))
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a pid");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal)
            .expect("a signal to a child");
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child()
            .as_ref()
            .unwrap_or_else(|| panic!("{} does not run", self.name))
            .id()
    }

    /// Whether the program was started and not waited for.
    pub fn is_started(&self) -> bool {
        self.child().is_some()
    }

    /// Everything that the program has written to stderr, over all its starts.
    pub fn stderr(&self) -> String {
        std::fs::read(&self.stderr).map_or_else(
            |error| format!("(no stderr: {error})"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        // After a panic under the lock, the programs must still be killed.
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A command as a shell's line, without the folder of the program.
fn line(command: &Command) -> String {
    let set = |(name, value): (&OsStr, Option<&OsStr>)| {
        Some(format!("{}={}", name.display(), value?.display()))
    };
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .display()
        .to_string();
    let arguments = command
        .get_args()
        .map(|argument| argument.display().to_string());
    let words = command
        .get_envs()
        .filter_map(set)
        .chain([program])
        .chain(arguments);
    words.collect::<Vec<_>>().join(" ")
}

impl Drop for ChildProgram {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() && self.stderr.exists() {
            eprintln!("stderr of {}:\n{}", self.name, self.stderr());
        }
    }
}
