//! Methods of [`Cluster`] for tests of snapshots and restores: to read the whole memory and its
//! incarnations, to lose a server's memory, and to restore it.

use super::dsmctl::{self, Run};
use super::program::ChildProgram;
use super::{Cluster, client, wait_for};
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::Duration;

/// How long a restore, or another condition of these tests, may take.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Repeats `run` while its stderr says that another snapshot or restore is under way: an agent may
/// still handle the messages of a dead master.
#[track_caller]
pub fn retry_while_under_way(mut run: impl FnMut() -> Run) -> Run {
    let mut last = None;
    wait_for("no other snapshot is under way", TEST_TIMEOUT, || {
        !last.insert(run()).stderr.contains("under way")
    });
    last.unwrap()
}

impl Cluster {
    /// Runs dsmctl in the cluster's folder.
    pub fn dsmctl(&self, line: &str) -> Run {
        dsmctl::run(self.directory(), &self.config_path(), line, b"")
    }

    /// Runs `dsmctl snapshot restore` with the file and more options.
    pub fn restore(&self, file: &Path, options: &str) -> Run {
        self.dsmctl(&format!("snapshot restore {} {options}", file.display()))
    }

    /// Writes `bytes` at address 0, by a new client.
    pub fn write_all(&self, bytes: &[u8]) {
        client(self).write(0, bytes).unwrap();
    }

    /// The whole memory, read by dsmctl.
    pub fn read_all(&self) -> Vec<u8> {
        let run = self.dsmctl(&format!("read 0 {}", self.layout().size()));
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
        run.stdout
    }

    /// The memory in a snapshot file, exported by dsmctl.
    pub fn export(&self, file: &Path) -> Vec<u8> {
        let raw = self.directory().join("raw");
        self.dsmctl(&format!(
            "snapshot export {} {}",
            file.display(),
            raw.display()
        ))
        .prints();
        std::fs::read(raw).unwrap()
    }

    /// The incarnation of each server's memory.
    pub fn incarnations(&self) -> Vec<String> {
        let client = client(self);
        (0..self.n())
            .map(|server| client.status(server).unwrap().incarnation.to_string())
            .collect()
    }

    /// Removes the shared memory of a server that does not run, as a reboot of its machine does.
    pub fn forget(&self, index: usize) {
        let of_server = |path: &Path| {
            let name = path
                .file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .trim_start_matches("sem.");
            let rest = name
                .strip_prefix(self.name())
                .unwrap()
                .trim_start_matches('.');
            rest.split('.').next() == Some(&index.to_string())
        };
        for path in self.leftovers().into_iter().filter(|path| of_server(path)) {
            std::fs::remove_file(path).unwrap();
        }
    }

    /// Reads the first bytes of server `index` by dsmctl.
    pub fn probe(&self, index: usize) -> Run {
        self.dsmctl(&format!(
            "read {} 8",
            index as u64 * self.layout().share_size()
        ))
    }

    /// Checks that the memory of server `index` is closed and waits for a restore.
    #[track_caller]
    pub fn assert_memory_closed(&self, index: usize) {
        self.probe(index).fails(
            75,
            &[&format!("server {index}"), "waiting for restore", "dsmctl"],
        );
    }
}

impl ChildProgram {
    /// Sends SIGCONT each time that the process is stopped, until `done` returns true.
    pub fn resume_until(&self, what: &str, mut done: impl FnMut() -> bool) {
        wait_for(what, TEST_TIMEOUT, || {
            self.signal(Signal::SIGCONT);
            done()
        });
    }
}
