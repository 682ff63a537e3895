//! The programs of examples/ do what their first comments say, as processes of their own on real
//! servers.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::program::built;
use support::{Cluster, client, wait_for};

/// What the examples ask for: k of at least 8 MiB.
const K: u64 = 8 << 20;

/// The most lines of an example, less one.
const MAX_LINES: usize = 80;

/// How long a process may take for what it has to do, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// An example that runs. It is killed when this is dropped.
struct Example {
    child: Child,
    name: &'static str,
    output: PathBuf,
}

impl Example {
    /// Starts the example `name`, its standard output and errors in files of the cluster's folder.
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

    /// Waits until it has ended, and returns what it has printed.
    fn finish(mut self) -> Vec<u8> {
        let mut status = None;
        wait_for(&format!("{} ends", self.name), DEADLINE, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let errors = std::fs::read_to_string(self.output.with_extension("stderr")).unwrap();
        assert!(
            status.unwrap().success(),
            "{} has failed: {errors}",
            self.name
        );
        std::fs::read(&self.output).unwrap()
    }

    /// The same, as text.
    fn text(self) -> String {
        String::from_utf8(self.finish()).unwrap()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(cluster: &Cluster, name: &'static str, arguments: &[&str]) -> Example {
    Example::start(cluster, name, arguments, Stdio::null())
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
        .map(Example::text)
        .map(|text| number_after(&text, "the counter is"))
        .into_iter()
        .max();
    assert_eq!((last, word(&client(&cluster), 1 << 20)), (Some(3000), 3000));
}

#[test]
fn a_counter_is_exact_although_dsmd_is_killed_while_it_counts() {
    let cluster = Cluster::start(1, K);
    let address = (1 << 20).to_string();
    let counter = start(&cluster, "counter", &[&address, "3000"]);
    let client = client(&cluster);
    wait_for("it counts", DEADLINE, || word(&client, 1 << 20) > 100);
    cluster.restart(0);
    assert_eq!(number_after(&counter.text(), "the counter is"), 3000);
}

const TASKS: u64 = 2000;

/// The end of a work queue: every result is there and right. `at` is its address.
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
    // A queue that lies on both servers.
    let at = K - 808;
    let (address, tasks) = (at.to_string(), TASKS.to_string());
    let both = [(); 2].map(|()| start(&cluster, "work_queue", &[&address, &tasks]));
    let taken = both
        .map(Example::text)
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
    wait_for("it takes tasks", DEADLINE, || word(&client, at) > 10);
    drop(killed);
    // Another that died as soon as it had a task.
    let lost = client.fetch_add(at, 1).unwrap();
    assert!(lost < TASKS, "the worker was killed too late");
    let text = start(&cluster, "work_queue", &[address, tasks]).text();
    assert!(number_after(&text, "and did") >= 1, "{text}");
    check_results(&client, at);
}

/// The most bytes of data that an item of the ring buffer has.
const ITEM: usize = 4096 - 16;

#[test]
fn what_a_producer_puts_into_a_ring_buffer_a_consumer_takes_out() {
    let cluster = Cluster::start(1, K);
    // Not a whole number of items, and so many that each slot is used several times.
    let data: Vec<u8> = (0..50_000_u32)
        .flat_map(u32::to_le_bytes)
        .take(199_999)
        .collect();
    let file = cluster.directory().join("file");
    std::fs::write(&file, &data).unwrap();
    let consumer = start(&cluster, "ring_buffer", &["take"]);
    let producer = Example::start(
        &cluster,
        "ring_buffer",
        &["put"],
        File::open(&file).unwrap().into(),
    );
    assert!(consumer.finish() == data, "other bytes came out");
    producer.finish();
    // All of it was taken: at least as many items as the data fill, and the end.
    assert!(word(&client(&cluster), 3 << 20) > data.len().div_ceil(ITEM) as u64);
}

#[test]
fn a_consumer_that_was_killed_is_started_again_and_misses_nothing() {
    let cluster = Cluster::start(1, K);
    let (client, ring) = (client(&cluster), 3 << 20);
    let data: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let file = cluster.directory().join("file");
    std::fs::write(&file, &data).unwrap();
    let producer = Example::start(
        &cluster,
        "ring_buffer",
        &["put"],
        File::open(&file).unwrap().into(),
    );
    let killed = start(&cluster, "ring_buffer", &["take"]);
    wait_for("it takes items", DEADLINE, || word(&client, ring) > 20);
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
    let texts = processes.map(Example::text).concat();
    assert!(
        texts.contains("all 256 rows are there, on 3 servers"),
        "{texts}"
    );
    // Each server has its rows: the last number of this one is on server 2.
    let row = 254;
    let last = row % 3 * K + (4 << 20) + 4096 * (1 + row / 3) + 4096 - 8;
    assert_eq!(word(&client(&cluster), last), (row + 1) * 512 - 1);
}

/// Address of the counter `left` of the lock's example, and of `right` where there are two servers.
const LEFT: u64 = (5 << 20) + 16;
const RIGHT: u64 = K + LEFT + 8;

#[test]
fn two_processes_under_one_lock_never_undo_what_the_other_did() {
    let cluster = Cluster::start(2, K);
    let both = [(); 2].map(|()| start(&cluster, "lock", &["40", "0"]));
    let texts = both.map(Example::text).concat();
    assert!(!texts.contains("died"), "{texts}");
    let client = client(&cluster);
    assert_eq!((word(&client, LEFT), word(&client, RIGHT)), (80, 80));
}

#[test]
fn the_lock_of_a_holder_that_was_killed_is_taken_over_and_what_it_left_repaired() {
    let cluster = Cluster::start(2, K);
    let client = client(&cluster);
    // It waits between its two writes.
    let holder = start(&cluster, "lock", &["1", "600000"]);
    wait_for("it has made its first write", DEADLINE, || {
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
fn each_example_is_short_says_how_to_start_it_and_is_listed() {
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
