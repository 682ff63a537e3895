//! A program that a test runs beside itself: started, stopped, killed, and asked afterwards what it
//! said.

use super::process::{places, state};
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
const READY: Duration = Duration::from_secs(20);

/// How long a program may take to end: dsmd's own `limits.shutdown_timeout` is 5 s, and a snapshot
/// waits until the disk has what other programs have written before it: more than a minute was seen
/// beside builds.
const STOPPED: Duration = Duration::from_secs(180);

/// Where a program of the package is built: beside the folder of the test's own binary. (What cargo
/// tells of it by `CARGO_BIN_EXE_dsmd`, it tells to the tests and not to the library under them.)
///
/// # Panics
/// When it is not there.
pub fn built(program: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the binary of this test");
    let path = test
        .ancestors()
        .nth(2)
        .expect("the binary is in target/debug/deps")
        .join(program);
    assert!(
        path.is_file(),
        "{} is not there: build it with cargo build --bins --examples",
        path.display()
    );
    path
}

/// One of them, over all its starts. It is killed when this is dropped.
///
/// Every method takes `&self`: a test may kill it from one thread while others use it.
pub struct Program {
    name: String,
    stderr: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Program {
    /// What messages call it, and the file for its stderr. It does not run yet.
    pub fn new(name: String, stderr: PathBuf) -> Self {
        Self {
            name,
            stderr,
            child: Mutex::new(None),
        }
    }

    /// Starts it and does not wait.
    ///
    /// # Panics
    /// When it runs already.
    pub fn spawn(&self, command: &mut Command) {
        let mut child = self.child();
        assert!(child.is_none(), "{} runs already", self.name);
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

    /// Waits until it accepts a connection.
    ///
    /// # Panics
    /// When it ends, or does not listen in time; its stderr is in the message.
    pub fn wait_until_ready(&self, address: &str) {
        let end = Instant::now() + READY;
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
                "{} does not listen after {READY:?}:\n{}",
                self.name,
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it with SIGKILL and waits until it is gone. Nothing happens when it does not run.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it does not run, or does not end in time.
    pub fn wait(&self) -> ExitStatus {
        let mut child = self
            .child()
            .take()
            .unwrap_or_else(|| panic!("{} does not run", self.name));
        let end = Instant::now() + STOPPED;
        loop {
            if let Some(status) = child.try_wait().expect("wait") {
                return status;
            }
            if Instant::now() >= end {
                let places = places(child.id());
                let _ = child.kill();
                let _ = child.wait();
                panic!(
                    "{} goes on after {STOPPED:?}, its threads in {places:?}:\n{}",
                    self.name,
                    self.stderr()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The same as [`Program::wait`]: the exit code, or the number of the signal that killed it,
    /// negative.
    pub fn wait_for_code(&self) -> i32 {
        let status = self.wait();
        status
            .code()
            .or(status.signal().map(|signal| -signal))
            .expect("a code or a signal")
    }

    /// Waits until it was stopped by SIGSTOP, its own or another's.
    ///
    /// # Panics
    /// When it ends instead, or goes on for too long.
    pub fn wait_until_stopped(&self) {
        super::wait_for(
            &format!("{} stands still", self.name),
            STOPPED,
            || match state(self.pid()) {
                'Z' => panic!(
                    "{} has ended instead of standing still:\n{}",
                    self.name,
                    self.stderr()
                ),
                state => state == 'T',
            },
        );
    }

    /// Whether it was stopped by a signal, or has ended, and not been waited for.
    pub fn has_stopped(&self) -> bool {
        ['T', 'Z'].contains(&state(self.pid()))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a pid");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal)
            .expect("a signal to a child");
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child()
            .as_ref()
            .unwrap_or_else(|| panic!("{} does not run", self.name))
            .id()
    }

    /// Whether it was started and nobody has waited for its end.
    pub fn is_started(&self) -> bool {
        self.child().is_some()
    }

    /// Everything that it has written to stderr, over all its starts.
    pub fn stderr(&self) -> String {
        std::fs::read(&self.stderr).map_or_else(
            |error| format!("(no stderr: {error})"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        // A test that failed while it held the lock still wants its programs killed.
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A command as one would type it, without the folder that the program is in.
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

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() && self.stderr.exists() {
            eprintln!("stderr of {}:\n{}", self.name, self.stderr());
        }
    }
}
