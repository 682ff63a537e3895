//! A /dev/shm without room for the segment is a clear error at start, and leaves nothing behind.
//!
//! Each case runs dsmd in a separate mount namespace, where /dev/shm is a small tmpfs. That takes
//! root.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};
use support::cgroup::MemoryGroup;
use support::{Cluster, namespace};

/// Exit codes of sysexits(3).
const IO_ERROR: i32 = 74;
const CONFIG: i32 = 78;

const MIB: u64 = 1 << 20;

/// Runs dsmd with a /dev/shm of `size` bytes, of which `used` are taken. Returns its output and
/// what was left in /dev/shm; `None`, with the reason printed, where the machine does not allow it.
fn run_with_shm(cluster: &Cluster, size: u64, used: u64) -> Option<(Output, String)> {
    let mount = format!("mount -t tmpfs -o size={size} tmpfs /dev/shm");
    if !namespace::is_allowed() {
        return None;
    }
    let left = cluster.directory().join("left");
    let script = format!(
        "{mount} && head -c {used} /dev/zero > /dev/shm/ballast && \"$@\"; code=$?; rm /dev/shm/ballast; \
         ls -A /dev/shm > '{}'; df --output=used /dev/shm | tail -n 1 >> '{}'; exit $code",
        left.display(),
        left.display()
    );
    let dsmd = cluster.command(0);
    let output = Command::new("unshare")
        .args(["--mount", "timeout", "20", "sh", "-c", &script, "sh"])
        .arg(dsmd.get_program())
        .args(dsmd.get_args())
        .env_remove("NOTIFY_SOCKET")
        .output()
        .unwrap();
    Some((output, std::fs::read_to_string(left).unwrap()))
}

#[test]
fn a_full_dev_shm_is_a_clear_error_and_nothing_is_left_behind() {
    let cluster = Cluster::builder().k(64 * MIB).create();
    let Some((output, left)) = run_with_shm(&cluster, 128 * MIB, 100 * MIB) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    println!("{}: {said}", output.status);
    assert_eq!(output.status.code(), Some(IO_ERROR), "{said}");
    for word in ["/dev/shm", cluster.name(), "free", &(28 * MIB).to_string()] {
        assert!(said.contains(word), "{said:?} does not say {word:?}");
    }
    assert_eq!(
        left.split_whitespace().collect::<Vec<_>>(),
        ["0"],
        "left in /dev/shm: {left:?}"
    );
}

#[test]
fn a_k_that_dev_shm_can_never_hold_is_a_clear_error_and_nothing_is_left_behind() {
    let cluster = Cluster::builder().k(64 * MIB).create();
    let Some((output, left)) = run_with_shm(&cluster, 32 * MIB, 0) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    println!("{}: {said}", output.status);
    // Either as an error in mcomp.cfg, or as the lack of room that it leads to.
    assert!(
        matches!(output.status.code(), Some(IO_ERROR | CONFIG)),
        "{said}"
    );
    assert!(
        said.contains("/dev/shm"),
        "{said:?} does not say where there is no room"
    );
    assert_eq!(
        left.split_whitespace().collect::<Vec<_>>(),
        ["0"],
        "left in /dev/shm: {left:?}"
    );
}

#[test]
fn a_dev_shm_with_just_too_little_room_for_the_tables_is_a_clear_error() {
    let cluster = Cluster::builder().k(8 * MIB).create();
    // k fits, but not with the tables.
    let Some((output, left)) = run_with_shm(&cluster, 8 * MIB + 64 * 1024, 0) else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    println!("{}: {said}", output.status);
    assert_eq!(output.status.code(), Some(CONFIG), "{said}");
    assert!(
        said.contains("/dev/shm"),
        "{said:?} does not say where there is no room"
    );
    assert_eq!(
        left.split_whitespace().collect::<Vec<_>>(),
        ["0"],
        "left in /dev/shm: {left:?}"
    );
}

/// A command that runs `program` with a limit of `blocks` times 512 bytes per file.
fn with_file_limit(blocks: u64, program: &Command) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -f {blocks}; exec \"$@\""), "sh"])
        .arg(program.get_program());
    command
        .args(program.get_args())
        .env_remove("NOTIFY_SOCKET")
        .env_remove("JOURNAL_STREAM");
    command
}

#[test]
fn a_limit_of_file_sizes_below_the_segment_is_a_clear_error_and_nothing_is_left_behind() {
    let cluster = Cluster::builder().k(8 * MIB).create();
    for blocks in [0, 8, 2048] {
        let output = with_file_limit(blocks, &cluster.command(0))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        println!("{}: {said}", output.status);
        assert_eq!(output.status.code(), Some(IO_ERROR), "{said}");
        for word in [
            cluster.name(),
            "ulimit -f",
            "LimitFSIZE=",
            &format!("files of {} bytes", blocks * 512),
        ] {
            assert!(said.contains(word), "{said:?} does not say {word:?}");
        }
        assert_eq!(cluster.leftovers(), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn programs_below_a_file_size_limit_say_so_and_leave_nothing_behind() {
    let cluster = Cluster::builder().k(MIB).start();
    cluster.start_agents();
    // Data that zstd cannot compress.
    let memory: Vec<u8> = (0..MIB / 8)
        .flat_map(|word| noise(word).to_le_bytes())
        .collect();
    support::client(&cluster).write(0, &memory).unwrap();
    let dsmctl = |line: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dsmctl"));
        command
            .arg("--config")
            .arg(cluster.config_path())
            .args(line.split_whitespace());
        command
    };
    let output = cluster.directory().join("out.dsnap");
    let create = with_file_limit(64, dsmctl("snapshot create --output").arg(&output))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&create.stderr);
    assert_eq!(create.status.code(), Some(IO_ERROR), "{said}");
    assert!(said.contains("ulimit -f"), "{said}");
    let mut master = cluster.snapshot_command(0);
    let create = with_file_limit(64, master.arg("create")).output().unwrap();
    let said = String::from_utf8_lossy(&create.stderr);
    assert_eq!(create.status.code(), Some(IO_ERROR), "{said}");
    assert!(said.contains("LimitFSIZE="), "{said}");
    assert!(!output.exists() && cluster.partials().is_empty() && cluster.snapshots().is_empty());

    let file = std::fs::File::create(cluster.directory().join("memory")).unwrap();
    let read = with_file_limit(64, &dsmctl("read 0 1MiB"))
        .stdout(file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&read.stderr);
    assert_eq!(read.status.code(), Some(IO_ERROR), "{said}");
    assert!(
        said.contains("standard output") && said.contains("ulimit -f"),
        "{said}"
    );
}

/// A number without a pattern that compression would find.
fn noise(seed: u64) -> u64 {
    let mixed = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// Runs dsmctl's check of the cluster's configuration in `group`.
fn check_in(group: &MemoryGroup, cluster: &Cluster) -> String {
    let mut command = group.command(env!("CARGO_BIN_EXE_dsmctl"));
    let output = command
        .arg("--config")
        .arg(cluster.config_path())
        .args(["config", "check"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_limit_of_memory_below_the_segment_is_a_clear_error_and_nothing_is_left_behind() {
    let cluster = Cluster::builder().k(64 * MIB).create();
    let Some(group) = MemoryGroup::new(72 * MIB) else {
        return;
    };
    let dsmd = cluster.command(0);
    let mut command = group.command(dsmd.get_program());
    let output = command
        .args(dsmd.get_args())
        .env_remove("NOTIFY_SOCKET")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    println!("{}: {said}", output.status);
    assert_eq!(output.status.code(), Some(CONFIG), "{said}");
    for word in [
        cluster.name(),
        "dsmtest-",
        "MemoryMax=",
        &(72 * MIB).to_string(),
    ] {
        assert!(said.contains(word), "{said:?} does not say {word:?}");
    }
    assert_eq!(cluster.leftovers(), Vec::<std::path::PathBuf>::new());
    let checked = check_in(&group, &cluster);
    assert!(
        checked.contains("warning: ")
            && checked.contains("mcomp.cfg:2:5: a segment of this k needs"),
        "{checked}"
    );
}

#[test]
fn a_segment_starts_with_the_least_memory_that_the_message_names() {
    let cluster = Cluster::builder().k(64 * MIB).create();
    let needed =
        64 * MIB + dsm_core::segment::overhead(64 * MIB) + dsm_core::segment::SERVER_MEMORY;
    let Some(group) = MemoryGroup::new(needed.next_multiple_of(4096)) else {
        return;
    };
    assert_eq!(check_in(&group, &cluster), "");
    let dsmd = cluster.command(0);
    let mut command = group.command(dsmd.get_program());
    let mut child = command
        .args(dsmd.get_args())
        .env_remove("NOTIFY_SOCKET")
        .spawn()
        .unwrap();
    support::wait_for("it listens, or ends", support::wire::TEST_TIMEOUT, || {
        std::net::TcpStream::connect(cluster.address(0)).is_ok()
            || child.try_wait().unwrap().is_some()
    });
    assert_eq!(child.try_wait().unwrap(), None, "it ended");
    // All of the memory is allocated: writing to it takes no more.
    support::client(&cluster).fill(0, 1 << 20, 7).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Runs dsmd by this sh command, where "$@" is its command line, in a mount namespace. Returns its
/// output.
fn run_by(cluster: &Cluster, line: &str) -> Output {
    let dsmd = cluster.command(0);
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "timeout", "20", "sh", "-c", line, "sh"])
        .arg(dsmd.get_program())
        .args(dsmd.get_args());
    command.env_remove("NOTIFY_SOCKET").output().unwrap()
}

#[test]
fn an_address_space_that_is_too_small_says_what_is_needed_and_where_to_allow_it() {
    let cluster = Cluster::builder().k(128 * MIB).create();
    if !namespace::is_allowed() {
        return;
    }
    // In KiB: enough for the program itself.
    let output = run_by(&cluster, "ulimit -v 130000 && \"$@\"");
    let said = String::from_utf8_lossy(&output.stderr);
    println!("{}: {said}", output.status);
    assert_eq!(output.status.code(), Some(IO_ERROR), "{said}");
    for word in ["no memory for", cluster.name(), "k and", "ulimit -v"] {
        assert!(said.contains(word), "{said:?} does not say {word:?}");
    }
    assert!(cluster.leftovers().is_empty(), "{:?}", cluster.leftovers());
}

#[test]
fn a_dev_shm_that_cannot_be_written_says_how_to_mount_it() {
    let cluster = Cluster::builder().k(MIB).create();
    if !namespace::is_allowed() {
        return;
    }
    let output = run_by(&cluster, "mount -t tmpfs -o ro tmpfs /dev/shm && \"$@\"");
    let said = String::from_utf8_lossy(&output.stderr);
    println!("{}: {said}", output.status);
    assert_eq!(output.status.code(), Some(IO_ERROR), "{said}");
    assert!(said.contains("remount,rw /dev/shm"), "{said}");
}
