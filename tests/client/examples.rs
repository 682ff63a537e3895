//! The programs of examples/ do what their first comments say. Each runs as a process, with real
//! servers.

// The lint exempts #[test] functions, not the helpers that they call.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::program::built;
use support::{Cluster, client, wait_for};

/// The smallest k that all examples work with: 8 MiB.
const K: u64 = 8 << 20;

/// An example has fewer lines than this.
const MAX_LINES: usize = 80;

/// How long a process may take for its work, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running example. Dropping it kills the process.
struct ExampleProcess {
    child: Child,
    name: &'static str,
    output: PathBuf,
}

impl ExampleProcess {
    /// Starts the example `name`. Its standard output and standard error go to files in the
    /// cluster's folder.
    fn start(cluster: &Cluster, name: &'static str, arguments: &[&str], input: Stdio) -> Self {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let output = cluster.directory().join(format!("{name}.{number}"));
        let mut command = Command::new(built(&format!("examples/{name}")));
        command
            .args(arguments)
            .env("DSM_CONFIG", cluster.config_path())
            .stdin(input);
        command.stdout(File::create(&output).unwrap());
        command.stderr(File::create(output.with_extension("stderr")).unwrap());
        Self {
            child: command.spawn().unwrap(),
            name,
            output,
        }
    }

    /// Waits until it ends, and returns its standard output.
    fn finish(mut self) -> Vec<u8> {
        let mut status = None;
        wait_for(&format!("{} to end", self.name), DEADLINE, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let errors = std::fs::read_to_string(self.output.with_extension("stderr")).unwrap();
        assert!(status.unwrap().success(), "{} failed: {errors}", self.name);
        std::fs::read(&self.output).unwrap()
    }

    /// The same, as text.
    fn text(self) -> String {
        String::from_utf8(self.finish()).unwrap()
    }
}

impl Drop for ExampleProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(cluster: &Cluster, name: &'static str, arguments: &[&str]) -> ExampleProcess {
    ExampleProcess::start(cluster, name, arguments, Stdio::null())
}

fn word(client: &dsm_client::Client, address: u64) -> u64 {
    u64::from_le_bytes(client.read(address, 8).unwrap().try_into().unwrap())
}

/// The first number after `words` in a text.
fn number_after(text: &str, words: &str) -> u64 {
    let rest = text
        .split_once(words)
        .unwrap_or_else(|| panic!("no {words:?} in {text:?}"))
        .1;
    rest.split(|character: char| !character.is_ascii_digit())
        .find(|number| !number.is_empty())
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn two_processes_that_count_together_lose_no_addition() {
    let cluster = Cluster::start(1, K);
    let address = (1 << 20).to_string();
    let both = [(); 2].map(|()| start(&cluster, "counter", &[&address, "1500"]));
    let last = both
        .map(ExampleProcess::text)
        .map(|text| number_after(&text, "the counter is"))
        .into_iter()
        .max();
    assert_eq!((last, word(&client(&cluster), 1 << 20)), (Some(3000), 3000));
}

#[test]
fn a_counter_stays_exact_when_dsmd_is_killed() {
    let cluster = Cluster::start(1, K);
    let address = (1 << 20).to_string();
    let counter = start(&cluster, "counter", &[&address, "3000"]);
    let client = client(&cluster);
    wait_for("the counter to pass 100", DEADLINE, || {
        word(&client, 1 << 20) > 100
    });
    cluster.restart(0);
    assert_eq!(number_after(&counter.text(), "the counter is"), 3000);
}

const TASKS: u64 = 2000;

/// Checks that the work queue at the address `at` has the right result of every task.
fn check_results(client: &dsm_client::Client, at: u64) {
    for task in 0..TASKS {
        let next = |value: &u64| {
            (*value != 1).then(|| {
                if value.is_multiple_of(2) {
                    value / 2
                } else {
                    3 * value + 1
                }
            })
        };
        let steps = std::iter::successors(Some(task + 2), next).count() - 1;
        assert_eq!(word(client, at + 8 + 8 * task), steps as u64, "task {task}");
    }
}

#[test]
fn two_workers_take_each_task_of_a_queue_once() {
    let cluster = Cluster::start(2, K);
    // The queue is on both servers.
    let at = K - 808;
    let (address, tasks) = (at.to_string(), TASKS.to_string());
    let both = [(); 2].map(|()| start(&cluster, "work_queue", &[&address, &tasks]));
    let taken = both
        .map(ExampleProcess::text)
        .map(|text| number_after(&text, "took"));
    assert_eq!(taken.iter().sum::<u64>(), TASKS);
    check_results(&client(&cluster), at);
}

#[test]
fn the_task_of_a_worker_that_was_killed_is_done_by_another() {
    let cluster = Cluster::start(1, K);
    let (client, at) = (client(&cluster), 2 << 20);
    let arguments = [at.to_string(), TASKS.to_string()];
    let [address, tasks] = arguments.each_ref().map(String::as_str);
    let killed = start(&cluster, "work_queue", &[address, tasks]);
    wait_for("the worker to take tasks", DEADLINE, || {
        word(&client, at) > 10
    });
    drop(killed);
    // A second worker, which died as soon as it had taken a task.
    let lost = client.fetch_add(at, 1).unwrap();
    assert!(lost < TASKS, "the worker was killed too late");
    let text = start(&cluster, "work_queue", &[address, tasks]).text();
    assert!(number_after(&text, "and did") >= 1, "{text}");
    check_results(&client, at);
}

/// The most bytes of data that an item of the ring buffer has.
const ITEM: usize = 4096 - 16;

#[test]
fn a_consumer_of_a_ring_buffer_gets_the_bytes_of_the_producer() {
    let cluster = Cluster::start(1, K);
    // Not a whole number of items, and enough of them to use each slot several times.
    let data: Vec<u8> = (0..50_000_u32)
        .flat_map(u32::to_le_bytes)
        .take(199_999)
        .collect();
    let file = cluster.directory().join("file");
    std::fs::write(&file, &data).unwrap();
    let consumer = start(&cluster, "ring_buffer", &["take"]);
    let producer = ExampleProcess::start(
        &cluster,
        "ring_buffer",
        &["put"],
        File::open(&file).unwrap().into(),
    );
    assert!(consumer.finish() == data, "other bytes came out");
    producer.finish();
    // The consumer has taken at least as many items as the data fill, and the end mark.
    assert!(word(&client(&cluster), 3 << 20) > data.len().div_ceil(ITEM) as u64);
}

#[test]
fn a_consumer_that_was_killed_and_started_again_misses_no_item() {
    let cluster = Cluster::start(1, K);
    let (client, ring) = (client(&cluster), 3 << 20);
    let data: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let file = cluster.directory().join("file");
    std::fs::write(&file, &data).unwrap();
    let producer = ExampleProcess::start(
        &cluster,
        "ring_buffer",
        &["put"],
        File::open(&file).unwrap().into(),
    );
    let killed = start(&cluster, "ring_buffer", &["take"]);
    wait_for("the consumer to take items", DEADLINE, || {
        word(&client, ring) > 20
    });
    let first = killed.output.clone();
    drop(killed);
    let rest = start(&cluster, "ring_buffer", &["take"]).finish();
    producer.finish();
    let first = std::fs::read(first).unwrap();
    assert!(
        data.starts_with(&first) && data.ends_with(&rest),
        "other bytes came out"
    );
    let twice = (first.len() + rest.len()).checked_sub(data.len());
    assert!(
        twice.is_some_and(|twice| twice <= ITEM),
        "{} and {} of {} bytes",
        first.len(),
        rest.len(),
        data.len()
    );
}

#[test]
fn a_matrix_over_three_servers_is_filled_by_several_processes() {
    let cluster = Cluster::start(3, K);
    let processes = ["0", "1", "2", "0"].map(|process| start(&cluster, "matrix", &[process, "3"]));
    let texts = processes.map(ExampleProcess::text).concat();
    assert!(
        texts.contains("all 256 rows are there, on 3 servers"),
        "{texts}"
    );
    // Each server has a third of the rows. The last number of this row is on server 2.
    let row = 254;
    let last = row % 3 * K + (4 << 20) + 4096 * (1 + row / 3) + 4096 - 8;
    assert_eq!(word(&client(&cluster), last), (row + 1) * 512 - 1);
}

/// The addresses of the counters of the lock's example: `left`, and `right` with two servers.
const LEFT: u64 = (5 << 20) + 16;
const RIGHT: u64 = K + LEFT + 8;

#[test]
fn two_processes_under_one_lock_lose_no_change() {
    let cluster = Cluster::start(2, K);
    let both = [(); 2].map(|()| start(&cluster, "lock", &["40", "0"]));
    let texts = both.map(ExampleProcess::text).concat();
    assert!(!texts.contains("died"), "{texts}");
    let client = client(&cluster);
    assert_eq!((word(&client, LEFT), word(&client, RIGHT)), (80, 80));
}

#[test]
fn the_next_holder_repairs_the_data_of_a_holder_that_was_killed() {
    let cluster = Cluster::start(2, K);
    let client = client(&cluster);
    // The holder waits between its two writes.
    let holder = start(&cluster, "lock", &["1", "600000"]);
    wait_for("the holder to make its first write", DEADLINE, || {
        word(&client, LEFT) == 1
    });
    drop(holder);
    assert_eq!(word(&client, RIGHT), 0);
    let text = start(&cluster, "lock", &["1", "0"]).text();
    assert_eq!(
        text,
        "a holder died between its writes: right becomes 1\nleft is 2\n"
    );
    assert_eq!((word(&client, LEFT), word(&client, RIGHT)), (2, 2));
    assert_eq!(word(&client, 5 << 20), 0, "the lock is free again");
}

#[test]
fn each_example_is_short_has_its_command_and_is_in_the_list() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let list = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let mut found = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let Some(name) = path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .strip_suffix(".rs")
        else {
            continue;
        };
        found += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.lines().count() < MAX_LINES,
            "{name} has {} lines",
            text.lines().count()
        );
        let head: Vec<&str> = text
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .collect();
        assert!(
            head.iter()
                .any(|line| line.contains(&format!("$ cargo run --example {name} "))),
            "{name}: no command"
        );
        assert!(
            list.contains(&format!("[{name}.rs]({name}.rs)")),
            "examples/README.md does not list {name}"
        );
    }
    assert!(found >= 5, "{found} examples");
}
