//! Control groups that limit the memory of programs under test. Only root can create them.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A control group of this test. Dropping it waits for its processes to end, then removes it.
pub struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// Creates a group whose processes together may use `limit` bytes, in version 1 or 2 of control
    /// groups. Where the machine does not allow it, prints the reason and returns `None`.
    pub fn new(limit: u64) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "dsmtest-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let of = |controller: &str| {
            groups
                .lines()
                .find_map(|line| line.split_once(':')?.1.strip_prefix(controller))
        };
        let (folder, file) = if let Some(own) = of("memory:/") {
            (
                PathBuf::from("/sys/fs/cgroup/memory").join(own).join(name),
                "memory.limit_in_bytes",
            )
        } else {
            // In version 2, only the root group may have both processes and child groups with a
            // memory controller.
            (PathBuf::from("/sys/fs/cgroup").join(name), "memory.max")
        };
        if let Err(error) = std::fs::create_dir(&folder) {
            super::skip::skip(format_args!(
                "no control group {} here: {error}",
                folder.display()
            ));
            return None;
        }
        let group = Self(folder);
        match std::fs::write(group.0.join(file), limit.to_string()) {
            Ok(()) => Some(group),
            Err(error) => {
                super::skip::skip(format_args!("{file} cannot be set here: {error}"));
                None
            }
        }
    }

    /// A command that runs `program` in the group.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$1\" && shift && exec \"$@\"", "sh"])
            .arg(self.0.join("cgroup.procs"));
        command.arg(program);
        command
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
