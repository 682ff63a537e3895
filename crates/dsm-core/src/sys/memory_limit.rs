//! How much memory this process may use: the limits of its control groups, see `cgroups(7)`, and
//! the memory of the machine.

use nix::sys::sysinfo::sysinfo;
use std::path::{Path, PathBuf};

/// Where control groups are mounted. Version 1 has a directory for each controller in it.
const MOUNT: &str = "/sys/fs/cgroup";

/// Version 1 shows a little less than 2^63 if there is no limit; no machine has more than this.
const NO_LIMIT: u64 = 1 << 62;

/// The smallest limit of the memory of this process, swap included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes.
    pub bytes: u64,
    /// What sets the limit: a file of a control group, or "the RAM and swap of this machine".
    pub source: String,
}

/// The present limit of this process; `None` when it cannot be determined.
#[must_use]
pub fn of_this_process() -> Option<MemoryLimit> {
    let machine = sysinfo().ok();
    let swap = machine.map_or(u64::MAX, |machine| machine.swap_total());
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let whole = machine.map(|machine| MemoryLimit {
        bytes: machine.ram_total().saturating_add(swap),
        source: "the RAM and swap of this machine".to_owned(),
    });
    of_groups(&groups, Path::new(MOUNT), swap)
        .into_iter()
        .chain(whole)
        .min_by_key(|limit| limit.bytes)
}

/// The limits of the groups in `groups`, which has the form of /proc/self/cgroup, and of all their
/// ancestors.
fn of_groups(groups: &str, mount: &Path, swap: u64) -> Vec<MemoryLimit> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(own)) = (fields.next(), fields.next()) else {
            continue;
        };
        let own = Path::new(own.trim_start_matches('/'));
        if controllers.is_empty() {
            // If both versions are mounted, version 2 is in another directory and has no memory
            // limits.
            limits.extend(
                own.ancestors()
                    .filter_map(|group| unified(&mount.join(group), swap)),
            );
        } else if controllers
            .split(',')
            .any(|controller| controller == "memory")
        {
            let mount = mount.join("memory");
            limits.extend(
                own.ancestors()
                    .filter_map(|group| legacy(&mount.join(group), swap)),
            );
        }
    }
    limits
}

/// The limit of one group of version 2.
fn unified(group: &Path, swap: u64) -> Option<MemoryLimit> {
    let file = group.join("memory.max");
    let memory = number(&file)?;
    // Without this file, swap is not limited separately.
    let swap = number(&group.join("memory.swap.max")).map_or(swap, |most| most.min(swap));
    Some(limit(memory.saturating_add(swap), &file))
}

/// The limit of one group of version 1, in which a second file limits memory and swap together.
fn legacy(group: &Path, swap: u64) -> Option<MemoryLimit> {
    let file = group.join("memory.limit_in_bytes");
    let memory = number(&file).filter(|bytes| *bytes < NO_LIMIT)?;
    let both = number(&group.join("memory.memsw.limit_in_bytes")).unwrap_or(u64::MAX);
    Some(limit(memory.saturating_add(swap).min(both), &file))
}

fn limit(bytes: u64, file: &Path) -> MemoryLimit {
    MemoryLimit {
        bytes,
        source: PathBuf::from(file).display().to_string(),
    }
}

/// The number in a file; `None` for a word, such as "max", and if there is no such file.
fn number(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(root: &Path, group: &str, files: &[(&str, &str)]) {
        std::fs::create_dir_all(root.join(group)).unwrap();
        for (file, text) in files {
            std::fs::write(root.join(group).join(file), text).unwrap();
        }
    }

    fn least(groups: &str, root: &Path, swap: u64) -> Option<(u64, String)> {
        let least = of_groups(groups, root, swap)
            .into_iter()
            .min_by_key(|limit| limit.bytes)?;
        Some((
            least.bytes,
            least.source.strip_prefix(root.to_str()?)?.to_owned(),
        ))
    }

    #[test]
    fn the_smallest_limit_of_a_group_and_its_ancestors_counts() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        group(root, "a/b", &[("memory.max", "max\n")]);
        group(
            root,
            "a",
            &[("memory.max", "1000\n"), ("memory.swap.max", "0\n")],
        );
        assert_eq!(
            least("0::/a/b\n", root, 500),
            Some((1000, "/a/memory.max".to_owned()))
        );
        group(
            root,
            "a/b",
            &[("memory.max", "700"), ("memory.swap.max", "max")],
        );
        assert_eq!(
            least("0::/a/b\n", root, 100),
            Some((800, "/a/b/memory.max".to_owned())),
            "swap counts"
        );
        group(root, "a/b", &[("memory.swap.max", "50")]);
        assert_eq!(
            least("0::/a/b\n", root, 100),
            Some((750, "/a/b/memory.max".to_owned()))
        );
        assert_eq!(least("0::/elsewhere\n", root, 0), None);
        assert_eq!(least("", root, 0), None);
        // As in a container, which sees its group as the root.
        group(root, "", &[("memory.max", "600")]);
        assert_eq!(
            least("0::/\n", root, 0),
            Some((600, "/memory.max".to_owned()))
        );
    }

    #[test]
    fn limits_of_groups_of_version_1_are_found() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let groups = "9:name=systemd:/x\n4:cpu,memory:/x/y\n0::/\n";
        group(
            root,
            "memory/x/y",
            &[("memory.limit_in_bytes", "9223372036854771712\n")],
        );
        assert_eq!(least(groups, root, 0), None, "that is no limit");
        group(root, "memory/x", &[("memory.limit_in_bytes", "4096\n")]);
        assert_eq!(
            least(groups, root, 4096),
            Some((8192, "/memory/x/memory.limit_in_bytes".to_owned()))
        );
        group(
            root,
            "memory/x",
            &[("memory.memsw.limit_in_bytes", "5000\n")],
        );
        assert_eq!(
            least(groups, root, 4096),
            Some((5000, "/memory/x/memory.limit_in_bytes".to_owned()))
        );
    }

    #[test]
    fn this_machine_has_a_memory_limit() {
        assert!(of_this_process().is_some_and(|limit| limit.bytes > 1 << 20));
    }
}
