//! Long transfers of dsmctl, which several threads carry out: the bytes, the order in a pipe, and
//! what is left when something fails in the middle.

#![allow(clippy::unwrap_used)] // The lint exempts test functions, but not their helpers.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::Cluster;
use support::dsmctl::Run;
use support::process::status_field;

const MIB: usize = 1 << 20;

/// The deadline of what happens at once on a machine with nothing else to do.
const SOON: Duration = Duration::from_secs(60);

fn dsmctl(cluster: &Cluster, line: &str) -> Run {
    support::dsmctl::run(cluster.directory(), &cluster.config_path(), line, b"")
}

/// dsmctl with pipes as its standard streams, while it runs.
fn start(cluster: &Cluster, line: &str) -> Child {
    Command::new(assert_cmd::cargo::cargo_bin("dsmctl"))
        .current_dir(cluster.directory())
        .env("DSM_CONFIG", cluster.config_path())
        .args(line.split_whitespace())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the end of a program that may not wait for its standard input any more.
fn end(mut child: Child) -> Run {
    support::wait_for("the end of dsmctl", SOON, || {
        child.try_wait().unwrap().is_some()
    });
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Bytes that are different at every border of steps, so that a misplaced step is noticed.
fn pattern(length: usize) -> Vec<u8> {
    let words = (0..length.div_ceil(8) as u64)
        .flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    words.take(length).collect()
}

fn file(cluster: &Cluster, name: &str, bytes: &[u8]) -> PathBuf {
    let path = cluster.directory().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The number of bytes in "after NUMBER of … bytes were …", which a failure in the middle reports.
#[track_caller]
fn done_before(run: &Run) -> usize {
    let number = run.stderr.strip_prefix("dsmctl: after ");
    number
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("no number of bytes in {:?}", run.stderr))
}

#[test]
fn a_long_transfer_keeps_every_byte_in_files_and_in_pipes() {
    let remote = Cluster::start(3, 16 << 20);
    let local = Cluster::builder().servers(3).k(16 << 20).local().start();
    for cluster in [&remote, &local] {
        let data = pattern(37 * MIB + 12_345);
        let length = data.len();
        file(cluster, "data", &data);
        dsmctl(cluster, "write 1MiB+7 --file data").prints();
        dsmctl(cluster, &format!("read 1MiB+7 {length} -o copy")).prints();
        assert!(std::fs::read(cluster.directory().join("copy")).unwrap() == data);
        assert!(dsmctl(cluster, &format!("read 1MiB+7 {length}")).stdout == data);

        let data = &data[5..];
        let line = "write 3 - --json";
        let run = support::dsmctl::run(cluster.directory(), &cluster.config_path(), line, data);
        assert_eq!(run.json()["length"], data.len());
        assert!(dsmctl(cluster, &format!("read 3 {}", data.len())).stdout == data);
        // The other formats cut no number and no line in two.
        let numbers = dsmctl(cluster, "read 3 10MiB --format u16");
        let expected: String = data[..10 * MIB]
            .chunks(2)
            .map(|pair| format!("{}\n", u16::from_le_bytes([pair[0], pair[1]])))
            .collect();
        assert!(numbers.text() == expected);
    }
}

#[test]
fn a_long_transfer_uses_several_connections_and_a_short_one_a_single_one() {
    let cluster = Cluster::start(1, 32 << 20);
    let client = support::client(&cluster);
    let accepted = || client.status(0).unwrap().connections.accepted;
    file(&cluster, "data", &pattern(8 * MIB));
    for (line, connections) in [
        ("write 0 --file data", 1..=1),
        ("read 0 8MiB", 1..=1),
        ("read 0 32MiB", 2..=8),
    ] {
        let before = accepted();
        dsmctl(&cluster, line);
        let used = accepted() - before;
        assert!(connections.contains(&used), "{line}: {used}");
    }
}

#[test]
fn a_server_that_takes_a_single_connection_is_enough() {
    let cluster = Cluster::builder()
        .servers(2)
        .k(16 << 20)
        .config("[limits]\nconnections = 1")
        .start();
    let data = pattern(30 * MIB);
    file(&cluster, "data", &data);
    dsmctl(&cluster, "write 5 --file data").prints();
    assert!(dsmctl(&cluster, "read 5 30MiB").stdout == data);
}

#[test]
fn what_is_written_before_a_server_dies_is_reported_though_the_producer_is_silent() {
    let cluster = Cluster::start(2, 16 << 20);
    let data = pattern(20 * MIB);
    let mut writer = start(&cluster, "--timeout 500ms write 9 -");
    let mut input = writer.stdin.take().unwrap();
    input.write_all(&data[..12 * MIB]).unwrap();
    cluster.kill(1);
    // The pipe stays open: dsmctl has to end without another byte.
    let ended = input.write_all(&data[12 * MIB..]);
    let run = end(writer);
    drop((input, ended));
    run.fails(69, &["bytes were written: server 1", cluster.address(1)]);
    let done = done_before(&run);
    // The step over the border of the two servers is the first that fails.
    assert!((15 * MIB..16 * MIB).contains(&done), "{done}");
    assert!(dsmctl(&cluster, &format!("read 9 {done}")).stdout == data[..done]);
}

#[test]
fn what_is_read_before_a_server_dies_is_the_beginning_of_the_output() {
    let cluster = Cluster::start(2, 16 << 20);
    let data = pattern(32 * MIB);
    support::client(&cluster).write(0, &data).unwrap();

    let mut reader = start(&cluster, "--timeout 500ms read 0 32MiB");
    let mut output = vec![0; MIB];
    let mut pipe = reader.stdout.take().unwrap();
    pipe.read_exact(&mut output).unwrap();
    cluster.kill(1);
    pipe.read_to_end(&mut output).unwrap();
    let run = end(reader);
    run.fails(69, &["of 33554432 bytes were read: server 1"]);
    assert_eq!(done_before(&run), output.len());
    assert!(output.len() >= 15 * MIB && data.starts_with(&output));

    let run = dsmctl(&cluster, "--timeout 300ms read 5 20MiB -o copy");
    run.fails(69, &["of 20971520 bytes were read: server 1"]);
    let copy = std::fs::read(cluster.directory().join("copy")).unwrap();
    assert_eq!(done_before(&run), copy.len());
    assert!(copy.len() >= 15 * MIB && data[5..].starts_with(&copy));
}

#[test]
fn a_full_disk_and_a_closed_pipe_end_a_long_read() {
    let cluster = Cluster::start(1, 32 << 20);
    let run = dsmctl(&cluster, "read 0 32MiB -o /dev/full");
    run.fails(74, &["dsmctl: /dev/full: No space left"]);

    // In the middle of the transfer and of a step: ulimit counts blocks of 512 bytes.
    let program = assert_cmd::cargo::cargo_bin("dsmctl");
    let limited = "ulimit -f 20481 && exec \"$0\" read 0 32MiB -o copy";
    let mut shell = assert_cmd::Command::new("sh");
    shell.current_dir(cluster.directory());
    shell.env("DSM_CONFIG", cluster.config_path());
    let run = Run::of(shell.args(["-c", limited]).arg(program));
    run.fails(74, &["of 33554432 bytes were read: copy: File too large"]);
    assert_eq!(done_before(&run), 10 * MIB);
    let copy = std::fs::metadata(cluster.directory().join("copy")).unwrap();
    assert_eq!(copy.len(), (10 << 20) + 512);

    let mut reader = start(&cluster, "read 0 32MiB");
    let mut pipe = reader.stdout.take().unwrap();
    pipe.read_exact(&mut [0; 100]).unwrap();
    drop(pipe);
    let run = end(reader);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
}

/// Waits until a program has read so many bytes of a file.
fn wait_until_read(child: &Child, bytes: u64) {
    let folder = format!("/proc/{}/fdinfo", child.id());
    let position = |text: String| {
        text.strip_prefix("pos:")?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    };
    support::wait_for("the reading of a file", SOON, || {
        std::fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| position(std::fs::read_to_string(entry.path()).ok()?))
            .any(|position: u64| position >= bytes)
    });
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_written_up_to_its_new_end_and_reported() {
    let cluster = Cluster::start(1, 32 << 20);
    let data = pattern(30 * MIB);
    let path = file(&cluster, "data", &data);
    cluster.signal(0, Signal::SIGSTOP);
    let writer = start(&cluster, "--timeout 60s write 0 --file data");
    wait_until_read(&writer, 1);
    let shrunk = 14 * MIB + 5;
    let truncated = File::options().write(true).open(path).unwrap();
    truncated.set_len(shrunk as u64).unwrap();
    cluster.signal(0, Signal::SIGCONT);
    let run = end(writer);
    assert_eq!((run.code, done_before(&run)), (74, shrunk));
    assert!(
        run.stderr
            .ends_with(": data has become shorter while it was read\n"),
        "{}",
        run.stderr
    );
    assert!(dsmctl(&cluster, &format!("read 0 {shrunk}")).stdout == data[..shrunk]);
}

#[test]
fn an_interrupted_read_leaves_the_beginning_of_the_range_in_the_file() {
    let cluster = Cluster::start(2, 16 << 20);
    let data = pattern(32 * MIB);
    support::client(&cluster).write(0, &data).unwrap();
    cluster.signal(1, Signal::SIGSTOP);
    let mut reader = start(&cluster, "--timeout 60s read 0 32MiB -o copy");
    let copy = cluster.directory().join("copy");
    support::wait_for("the first server's bytes", SOON, || {
        std::fs::metadata(&copy).is_ok_and(|found| found.len() == 16 << 20)
    });
    let pid = Pid::from_raw(reader.id().try_into().unwrap());
    // A background job of a shell ignores SIGINT, and so do its children.
    kill(pid, Signal::SIGTERM).unwrap();
    let status = reader.wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
    cluster.signal(1, Signal::SIGCONT);
    assert!(data.starts_with(&std::fs::read(copy).unwrap()));
}

#[test]
fn a_long_transfer_needs_little_memory() {
    const LONG: usize = 64 * MIB;
    const MOST: u64 = 40 << 20;
    let cluster = Cluster::start(1, LONG as u64);
    let data = pattern(LONG);
    let path = file(&cluster, "data", &data);

    let mut writer = start(&cluster, "write 0 -");
    let mut input = writer.stdin.take().unwrap();
    input.write_all(&data).unwrap();
    let peak = status_field(writer.id(), "VmHWM");
    drop(input);
    assert_eq!(end(writer).code, 0);
    assert!(peak < MOST, "{peak}");

    let mut reader = start(&cluster, "read 0 64MiB");
    let mut pipe = reader.stdout.take().unwrap();
    // More than a pipe holds is missing: dsmctl still runs.
    let mut output = vec![0; LONG - MIB];
    pipe.read_exact(&mut output).unwrap();
    let peak = status_field(reader.id(), "VmHWM");
    pipe.read_to_end(&mut output).unwrap();
    assert_eq!(end(reader).code, 0);
    assert!(peak < MOST, "{peak}");
    assert!(output == data);

    // From a file, the rest of which comes only when the server runs again.
    cluster.signal(0, Signal::SIGSTOP);
    let writer = start(&cluster, "--timeout 60s write 0 --file data");
    wait_until_read(&writer, 1);
    let peak = status_field(writer.id(), "VmHWM");
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(b"changed", LONG as u64 - 7)
        .unwrap();
    cluster.signal(0, Signal::SIGCONT);
    assert_eq!(end(writer).code, 0);
    assert!(peak < MOST, "{peak}");
    assert_eq!(dsmctl(&cluster, "read 67108857 7").stdout, b"changed");
}
