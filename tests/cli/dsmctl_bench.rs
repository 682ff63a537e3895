//! `dsmctl bench`: its numbers are right, it changes only the given range, and it prints a report
//! even if it ends early.

#![allow(clippy::unwrap_used)] // The lint exempts test functions, but not their helpers.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::Cluster;
use support::dsmctl::Run;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The deadline of each wait, for a machine that is busy with other tests.
const DEADLINE: Duration = Duration::from_secs(60);

fn dsmctl(cluster: &Cluster, line: &str) -> Run {
    support::dsmctl::run(cluster.directory(), &cluster.config_path(), line, b"")
}

/// The report of a load, which must succeed.
#[track_caller]
fn report(cluster: &Cluster, line: &str) -> Value {
    let run = dsmctl(cluster, &format!("bench --json {line}"));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{line}");
    let report = run.json();
    check(&report);
    report
}

/// Checks that the numbers of a report are consistent.
#[track_caller]
fn check(report: &Value) {
    let size = number(&report["plan"]["size"]);
    let kinds: Vec<&Value> = ["reads", "writes", "adds"]
        .iter()
        .filter_map(|kind| report.get(kind))
        .collect();
    let sum: u64 = kinds.iter().map(|kind| number(&kind["operations"])).sum();
    assert_eq!(number(&report["all"]["operations"]), sum);
    let failed: u64 = array(&report["errors"])
        .iter()
        .map(|error| number(&error["count"]))
        .sum();
    assert_eq!(number(&report["failed"]), failed);
    for kind in kinds.into_iter().chain([&report["all"]]) {
        let operations = number(&kind["operations"]);
        assert_eq!(number(&kind["bytes"]), operations * size);
        let rate =
            u128::from(operations) * 1_000_000_000 / u128::from(number(&report["elapsed_ns"]));
        assert_eq!(u128::from(number(&kind["operations_per_second"])), rate);
        let latency = &kind["latency"];
        if operations == 0 {
            assert!(latency.is_null());
            continue;
        }
        let histogram = array(&latency["histogram"]);
        assert_eq!(
            histogram
                .iter()
                .map(|bucket| number(&bucket["count"]))
                .sum::<u64>(),
            operations
        );
        assert!(
            histogram
                .windows(2)
                .all(|pair| number(&pair[0]["below_ns"]) <= number(&pair[1]["from_ns"]))
        );
        let at = |name| number(&latency[name]);
        let (least, greatest) = (at("min_ns"), at("max_ns"));
        assert!(
            number(&histogram[0]["from_ns"]) <= least && least < number(&histogram[0]["below_ns"])
        );
        let slowest = histogram.last().unwrap();
        assert!(number(&slowest["from_ns"]) <= greatest && greatest < number(&slowest["below_ns"]));
        let ascending = [
            least,
            at("p50_ns"),
            at("p90_ns"),
            at("p99_ns"),
            at("p99_9_ns"),
            greatest,
        ];
        assert!(ascending.is_sorted(), "{ascending:?}");
        assert!((least..=greatest).contains(&at("mean_ns")));
    }
}

#[track_caller]
fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

#[track_caller]
fn array(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is no array"))
}

/// A `dsmctl bench` that runs in the background; dropping this kills it.
struct BenchProcess {
    child: Child,
    folder: PathBuf,
}

impl BenchProcess {
    /// Starts it, and waits until server 0 executes its requests.
    fn start(cluster: &Cluster, line: &str) -> Self {
        let client = support::client(cluster);
        let operations = || {
            client
                .status(0)
                .map_or(0, |status| status.operations.values().sum::<u64>())
        };
        let before = operations();
        // Files, not pipes: the test reads only after the process has ended, and a pipe could fill
        // up.
        let file = |name| File::create(cluster.directory().join(name)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_dsmctl"));
        command
            .env("DSM_CONFIG", cluster.config_path())
            .args(line.split_whitespace());
        command
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"));
        let load = Self {
            child: command.spawn().unwrap(),
            folder: cluster.directory().to_owned(),
        };
        support::wait_for("requests at server 0", DEADLINE, || {
            operations() > before + 500
        });
        load
    }

    fn interrupt(&self) {
        kill(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap()),
            Signal::SIGINT,
        )
        .unwrap();
    }

    /// Waits until it ends.
    fn wait(mut self) -> Run {
        support::wait_for("the end of the load", DEADLINE, || {
            self.child.try_wait().unwrap().is_some()
        });
        let [stdout, stderr] =
            ["stdout", "stderr"].map(|name| std::fs::read(self.folder.join(name)).unwrap());
        let stderr = String::from_utf8(stderr).unwrap();
        Run {
            code: self.child.wait().unwrap().code().unwrap(),
            stdout,
            stderr,
        }
    }
}

impl Drop for BenchProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_load_makes_exactly_as_many_requests_as_requested() {
    let cluster = Cluster::start(2, MIB);
    let all = |report: &Value| number(&report["all"]["operations"]);
    for line in [
        "",
        "--depth 16",
        "--connections 3",
        "--connections 3 --depth 128",
        "--pattern sequential --depth 2",
    ] {
        assert_eq!(
            all(&report(&cluster, &format!("--count 1001 {line}"))),
            1001,
            "{line}"
        );
    }
    assert_eq!(all(&report(&cluster, "--count 2 --connections 5")), 2);
    // Requests of the warm-up do not count.
    assert_eq!(
        all(&report(&cluster, "--count 100 --warm-up 50ms --depth 4")),
        100
    );
    let mixed = report(
        &cluster,
        "--count 2000 --reads 50 --range 0 2MiB --size 64KiB --depth 8 --seed 7",
    );
    assert_eq!(all(&mixed), 2000);
    for kind in ["reads", "writes"] {
        assert!(
            (800..=1200).contains(&number(&mixed[kind]["operations"])),
            "{kind}"
        );
    }
    assert_eq!(mixed["plan"]["seed"], 7);
}

#[test]
fn the_load_lasts_as_long_as_requested() {
    let cluster = Cluster::start(1, MIB);
    let begin = Instant::now();
    let report = report(&cluster, "--duration 300ms --connections 2");
    let elapsed = Duration::from_nanos(number(&report["elapsed_ns"]));
    assert!(
        elapsed >= Duration::from_millis(300) && elapsed <= begin.elapsed(),
        "{elapsed:?}"
    );
    assert!(number(&report["reads"]["operations"]) > 0);
    assert_eq!(report["interrupted"], false);
}

#[test]
fn bytes_outside_the_range_and_bytes_that_are_read_stay_unchanged() {
    let cluster = Cluster::start(2, 64 * KIB);
    let client = support::client(&cluster);
    let before = vec![0xa5; 128 << 10];
    client.write(0, &before).unwrap();
    report(&cluster, "--count 500");
    assert!(client.read(0, 128 * KIB).unwrap() == before);

    // Across the border of the two servers. The range is not a multiple of 100 bytes, so its last
    // bytes stay unchanged too.
    let (begin, length, size) = (60 * KIB, 8 * KIB + 8, 100);
    report(
        &cluster,
        &format!("--count 2000 --reads 0 --range {begin} {length} --size {size} --depth 8"),
    );
    let after = client.read(0, 128 * KIB).unwrap();
    let changed = begin..begin + length / size * size;
    for (address, byte) in (0..).zip(&after) {
        assert!(
            changed.contains(&address) || *byte == 0xa5,
            "address {address} was changed to {byte:#x}"
        );
    }
    // Each position was chosen many times, so that none is likely to be unchanged.
    let range = [changed.start, changed.end].map(|address| usize::try_from(address).unwrap());
    for place in after[range[0]..range[1]].chunks(100) {
        assert!(
            place.iter().any(|byte| *byte != 0xa5),
            "a position of the range was not written"
        );
    }
}

#[test]
fn each_addition_takes_effect_once_even_if_a_server_is_killed() {
    let cluster = Cluster::start(2, 64 * KIB);
    // 16 words at the end of server 0 and 16 at the start of server 1.
    let line = "--timeout 30s bench --json --duration 2s --reads 0 --change add --range 65408 256 --connections 2 --depth 16";
    let load = BenchProcess::start(&cluster, line);
    cluster.restart(0);
    let run = load.wait();
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let report = run.json();
    check(&report);
    let bytes = support::client(&cluster).read(65408, 256).unwrap();
    let words = bytes
        .chunks(8)
        .map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    assert_eq!(words.sum::<u64>(), number(&report["adds"]["operations"]));
    // The latencies include the wait for the restarted server.
    assert!(
        number(&report["adds"]["latency"]["max_ns"]) > number(&report["adds"]["latency"]["p50_ns"])
    );
}

#[test]
fn an_interrupt_ends_the_load_with_a_report() {
    let cluster = Cluster::start(1, MIB);
    for (line, depth) in [
        ("--duration 1h", 1),
        ("--count 1000000000000", 16),
        ("--warm-up 1h", 4),
    ] {
        let load = BenchProcess::start(&cluster, &format!("bench --json {line} --depth {depth}"));
        load.interrupt();
        let run = load.wait();
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{line}");
        let report = run.json();
        assert_eq!(report["interrupted"], true);
        check(&report);
    }
    let load = BenchProcess::start(&cluster, "bench --duration 1h --histogram");
    load.interrupt();
    let run = load.wait();
    let text = run.prints();
    assert!(
        text.lines().next().unwrap().ends_with(", interrupted"),
        "{text}"
    );
    assert!(
        text.contains("P99.9") && text.contains("\nreads ") && text.contains("below "),
        "{text}"
    );
}

#[test]
fn a_server_that_is_killed_during_the_load_is_an_error_after_the_report() {
    for line in [
        "--reads 100",
        "--reads 0 --range 0 1MiB",
        "--reads 100 --depth 32 --connections 3",
    ] {
        let cluster = Cluster::start(1, MIB);
        let load = BenchProcess::start(
            &cluster,
            &format!("--timeout 500ms bench --json --duration 1h {line}"),
        );
        cluster.kill(0);
        let run = load.wait();
        let report = run.json();
        check(&report);
        assert!(number(&report["failed"]) > 0 && number(&report["all"]["operations"]) > 0);
        let mut code = 69;
        for error in array(&report["errors"]) {
            assert_eq!(error["server"], 0);
            assert!(
                error["message"]
                    .as_str()
                    .unwrap()
                    .contains(cluster.address(0))
            );
            // A write may or may not have reached the killed server, so its outcome can be unknown.
            // A read has no effect, so its outcome never is.
            match error["kind"].as_str().unwrap() {
                "outcome-unknown" if line.contains("--reads 0") => code = 75,
                kind => assert_eq!(kind, "unavailable", "{line}"),
            }
        }
        run.fails(code, &["requests failed: the report says why"]);
    }
}

#[test]
fn a_server_that_is_down_at_the_start_is_an_error_without_a_report() {
    let cluster = Cluster::start(2, MIB);
    cluster.kill(1);
    let run = dsmctl(&cluster, "bench --connections 2 --count 10");
    run.fails(69, &["server 1", cluster.address(1)]);
    assert_eq!(run.text(), "");
    // A load that does not use this server succeeds.
    report(&cluster, "--count 10 --range 0 1MiB");
}

#[test]
fn a_load_uses_the_requested_path() {
    let cluster = Cluster::start(2, MIB);
    let client = support::client(&cluster);
    let local_reads = || {
        (0..2)
            .map(|server| client.status(server).unwrap().local.reads)
            .sum::<u64>()
    };
    for (path, paths, reads) in [
        ("tcp", "tcp", 0),
        ("local", "local", 1000),
        ("auto", "tcp", 0),
    ] {
        let before = local_reads();
        let report = report(&cluster, &format!("--count 1000 --path {path}"));
        assert_eq!(array(&report["paths"]), [paths], "{path}");
        assert_eq!(local_reads() - before, reads, "{path}");
    }
    cluster.stop(1);
    dsmctl(&cluster, "bench --count 1000 --path local")
        .fails(69, &["server 1", cluster.address(1), "--path auto"]);
}

#[test]
fn an_invalid_load_is_refused_with_the_remedy() {
    let cluster = Cluster::builder().servers(1).k(64 * KIB).create();
    for (line, code, words) in [
        ("--reads 99", 64, "--range 0 65536"),
        ("--change add", 64, "make --reads less than 100"),
        ("--size 0", 64, "give --size 1 to 1MiB"),
        ("--size 1MiB+1", 64, "give --size 1 to 1MiB"),
        (
            "--size 9 --range 0 8",
            64,
            "does not fit a range of 8 bytes",
        ),
        ("--range 0 0", 64, "does not fit a range of 0 bytes"),
        (
            "--reads 0 --change add --range 0 64 --size 16",
            64,
            "leave --size out",
        ),
        (
            "--reads 0 --change add --range 4 64",
            64,
            "which is not a multiple of 8: use 0 or 8",
        ),
        ("--connections 1000 --depth 128 --size 64KiB", 64, "smaller"),
        ("--range 65536 1", 65, "outside the memory"),
        ("--depth 0", 64, "1..=128"),
        ("--depth 129", 64, "1..=128"),
        ("--connections 0", 64, "1..=1000"),
        ("--reads 101", 64, "0..=100"),
        ("--count 1 --duration 1s", 64, "cannot be used with"),
        ("--duration 0s", 64, "1ms to 24h"),
        ("--warm-up 25h", 64, "up to 24h"),
        ("--change swap", 64, "add"),
        ("--path local --connections 49", 64, "room for 48 threads"),
    ] {
        let run = dsmctl(&cluster, &format!("bench {line}"));
        run.fails(code, &[words]);
        assert_eq!(run.text(), "", "{line}");
    }
}
