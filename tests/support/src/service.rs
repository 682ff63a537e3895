//! A dsmd whose service manager is the test.

use super::cluster::threads_of;
use super::{Cluster, wait_for};
use nix::unistd::Pid;
use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(20);

/// A dsmd that notifies the test as its service manager. Dropping this kills it.
pub struct Service {
    /// The process. Its standard error is a pipe.
    pub child: Child,
    manager: UnixDatagram,
}

impl Service {
    pub fn start(cluster: &Cluster, watchdog_microseconds: &str) -> Self {
        let manager = UnixDatagram::bind(cluster.directory().join("notify")).unwrap();
        Self::with(cluster, manager, watchdog_microseconds)
    }

    pub fn with(cluster: &Cluster, manager: UnixDatagram, watchdog_microseconds: &str) -> Self {
        let path = cluster.directory().join("notify");
        let mut command = cluster.command(0);
        command
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", watchdog_microseconds)
            .stderr(Stdio::piped());
        Self {
            child: command.spawn().unwrap(),
            manager,
        }
    }

    pub fn next_message(&self) -> String {
        self.next_message_within(DEADLINE)
            .expect("a message in time")
    }

    /// The next message; `None` if there is none within `time`.
    pub fn next_message_within(&self, time: Duration) -> Option<String> {
        self.manager.set_read_timeout(Some(time)).unwrap();
        let mut bytes = [0; 4096];
        let length = self.manager.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
    }

    pub fn wait_for_message(&self, what: &str) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let message = self.next_message();
            if message.lines().any(|line| line.starts_with(what)) {
                return message;
            }
            assert!(Instant::now() < deadline, "no message with {what}");
        }
    }

    /// The threads of dsmd with this name.
    pub fn threads(&self, name: &str) -> Vec<Pid> {
        threads_of(self.child.id(), name)
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    /// Stops dsmd in order, so that each thread finishes its work. Returns its standard error.
    pub fn log(mut self) -> String {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let mut log = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        log
    }

    pub fn exit_code(&mut self) -> Option<i32> {
        wait_for("dsmd to end", DEADLINE, || {
            self.child.try_wait().unwrap().is_some()
        });
        self.child.wait().unwrap().code()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
