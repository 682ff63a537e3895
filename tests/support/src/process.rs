//! Reads the state of processes and threads from /proc, and stops single threads.

use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A number from `/proc/PID/status`. Where the kernel prints kB, the result is in bytes.
pub fn status_field(pid: u32, field: &str) -> u64 {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let mut words = line
        .unwrap_or_else(|| panic!("{path} has no {field}"))
        .split_whitespace();
    let number: u64 = words
        .next()
        .and_then(|word| word.parse().ok())
        .expect("a number");
    number * if words.next() == Some("kB") { 1024 } else { 1 }
}

/// The state of a process as in `proc_pid_stat(5)`, such as `T` for stopped; `Z` also when there is
/// no such process.
pub fn state(pid: u32) -> char {
    // The name before the last parenthesis may have any characters.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next())
        .unwrap_or('Z')
}

/// The kernel function in which each thread of a process waits: see `proc_pid_wchan(5)`.
pub fn wait_channels(pid: u32) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    threads
        .map(|thread| std::fs::read_to_string(thread.path().join("wchan")).unwrap_or_default())
        .collect()
}

/// One stopped thread, whose process has other threads that run. Dropping this resumes it.
pub struct StoppedThread(Child);

/// A Python program that stops the thread of its argument, prints a line, and exits at the end of
/// its standard input. The kernel then resumes the thread. The numbers are `PTRACE_SEIZE`,
/// `PTRACE_INTERRUPT` and `__WALL`.
const STOP: &str = "
import ctypes, os, sys
trace = ctypes.CDLL(None, use_errno=True).ptrace
thread = int(sys.argv[1])
for request in (0x4206, 0x4207):
    if trace(request, thread, None, None):
        sys.exit(os.strerror(ctypes.get_errno()))
os.waitpid(thread, 0x40000000)
print('stopped', flush=True)
sys.stdin.read()
";

impl StoppedThread {
    /// Stops `thread`, which must belong to a child of this process.
    ///
    /// # Panics
    /// When the kernel does not allow ptrace(2).
    pub fn new(thread: Pid) -> Self {
        let mut python = Command::new("python3");
        python
            .args(["-c", STOP, &thread.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = python.spawn().expect("python3");
        let mut said = String::new();
        let output = child.stdout.take().expect("a pipe");
        BufReader::new(output)
            .read_line(&mut said)
            .expect("a line of python3");
        assert_eq!(said, "stopped\n", "thread {thread} cannot be stopped");
        Self(child)
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
