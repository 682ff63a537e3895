//! A local client killed anywhere in its critical section leaves a whole write or none, and blocks
//! neither dsmd nor other local clients.
#![cfg(debug_assertions)]
// The lint exempts #[test] functions, not the helpers that they call.
#![allow(clippy::unwrap_used)]

use dsm_client::{Client, DataPath, Error, ErrorKind};
use dsm_core::segment::crash::{self, Action, Point};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use support::{Cluster, client, dsmctl, is_error, local_client, own_process, process, wait_for};

const K: u64 = 64 * 4096;

/// The longest that the other clients wait for a repair, as promised.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// How much later than its deadline a call may end.
const MAX_DELAY: Duration = Duration::from_millis(500);

/// How long to wait for what takes no time, on a machine that is busy with other tests.
const BUSY_MACHINE: Duration = Duration::from_secs(20);

/// A range of many pages, not aligned, whose write uses a large slot.
const ADDRESS: u64 = 100;
const LENGTH: usize = 20 * 4096;

/// Starts this program as a local client that writes, and dies or stalls at `point`.
fn victim(cluster: &Cluster, point: Point, action: Action) -> Child {
    own_process::command(module_path!(), "victim_process")
        .env(
            "VICTIM",
            format!("{} {}", point as u8, u8::from(action == Action::Stall)),
        )
        .env("DSM_CONFIG", cluster.config_path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Not a test by itself: the body of the processes that [`victim`] starts.
#[test]
fn victim_process() {
    let Ok(words) = std::env::var("VICTIM") else {
        return;
    };
    let (point, stalls) = words.split_once(' ').unwrap();
    let point = Point::ALL
        .into_iter()
        .find(|of| (*of as u8).to_string() == point)
        .unwrap();
    let client = Client::new(&dsm_config::Config::load(&dsm_config::Config::find(None)).unwrap());
    assert_eq!(client.data_path(0).unwrap(), DataPath::Local);
    crash::arm(
        point,
        if stalls == "1" {
            Action::Stall
        } else {
            Action::Die
        },
    );
    client.write(ADDRESS, &vec![2; LENGTH]).unwrap();
}

/// Writes every page with its own contents, and so takes every stripe.
fn take_every_stripe(client: &Client) {
    for page in 0..64 {
        client.fetch_or(page * 4096, 0).unwrap();
    }
}

#[test]
fn a_killed_local_client_leaves_a_whole_write_or_none_and_the_others_continue_at_once() {
    let cluster = Cluster::builder().k(K).local().start();
    let (remote, local) = (client(&cluster), local_client(&cluster));
    assert_eq!(local.data_path(0).unwrap(), DataPath::Local);
    let mut outcomes = [0, 0];
    for (point, other) in Point::ALL
        .into_iter()
        .filter(|point| *point != Point::Redone)
        .flat_map(|point| [(point, &remote), (point, &local)])
    {
        remote.fill(0, K, 1).unwrap();
        let status = victim(&cluster, point, Action::Die).wait().unwrap();
        assert_eq!(
            status.signal(),
            Some(9),
            "{point:?} was not reached: {status}"
        );
        let began = Instant::now();
        take_every_stripe(other);
        assert!(
            began.elapsed() < MAX_WAIT,
            "{point:?}: the others waited {:?}",
            began.elapsed()
        );
        let mut expected = vec![1; usize::try_from(K).unwrap()];
        let found = remote.read(0, K).unwrap();
        let start = usize::try_from(ADDRESS).unwrap();
        let is_done = found[start] == 2;
        if is_done {
            expected[start..start + LENGTH].fill(2);
        }
        assert!(found == expected, "{point:?}: half a write");
        assert_eq!(is_done, point != Point::Locked, "{point:?}");
        outcomes[usize::from(is_done)] += 1;
    }
    let recovery = remote.status(0).unwrap().recovery;
    println!(
        "absent {}, whole {}, {recovery:?}",
        outcomes[0], outcomes[1]
    );
    assert_eq!(recovery.repaired, 14);
    assert!(
        cluster.stderr(0).contains("which died"),
        "dsmd logs the repair of a worker that held locks"
    );
}

#[test]
fn a_local_client_that_stalls_in_a_write_holds_its_stripes_until_it_is_killed() {
    let cluster = Cluster::builder().k(K).local().start();
    let mut child = victim(&cluster, Point::HalfCopied, Action::Stall);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("stalled")));
    let others: Vec<_> = [client(&cluster), local_client(&cluster)]
        .into_iter()
        .map(|client| std::thread::spawn(move || take_every_stripe(&client)))
        .collect();
    // The stalled client does not block pages that it does not write.
    client(&cluster).write(40 * 4096, b"x").unwrap();
    let began = Instant::now();
    child.kill().unwrap();
    child.wait().unwrap();
    others.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(
        began.elapsed() < MAX_WAIT,
        "the others waited {:?}",
        began.elapsed()
    );
}

#[test]
fn a_call_for_the_pages_of_a_stalled_process_names_it_in_time_and_other_calls_continue() {
    const TIMEOUT: Duration = Duration::from_secs(4);
    let cluster = Cluster::builder()
        .k(K)
        .local()
        .config("[limits]\nthreads = 1\n")
        .start();
    let mut child = victim(&cluster, Point::HalfCopied, Action::Stall);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("stalled")));
    // More clients than dsmd has threads for.
    let began = Instant::now();
    let stuck: Vec<_> = (0..20)
        .map(|number| {
            if number < 16 {
                client(&cluster)
            } else {
                local_client(&cluster)
            }
            .with_timeout(TIMEOUT)
        })
        .map(|client| {
            std::thread::spawn(move || client.write(ADDRESS, b"x").unwrap_err().to_string())
        })
        .collect();
    let mut others = 0;
    while stuck.iter().any(|thread| !thread.is_finished()) {
        assert!(
            began.elapsed() < 3 * TIMEOUT,
            "a call for the pages has not ended"
        );
        // New connections, which begin with a hello.
        for other in [client(&cluster), local_client(&cluster)] {
            let other = other.with_timeout(TIMEOUT);
            other.ping(0).unwrap();
            other.write(40 * 4096, b"x").unwrap();
            other.read(40 * 4096, 1).unwrap();
            others += 1;
        }
    }
    println!("{others} other clients succeeded");
    let name = format!("process {}", child.id());
    for thread in stuck {
        let error = thread.join().unwrap();
        assert!(error.contains(&name), "{error:?} does not say {name:?}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let began = Instant::now();
    take_every_stripe(&client(&cluster));
    assert!(
        began.elapsed() < MAX_WAIT,
        "the others waited {:?}",
        began.elapsed()
    );
}

/// A local client that SIGSTOP has stopped in the middle of its write. Dropping it kills the
/// process.
struct Stopped(Child);

impl Stopped {
    fn start(cluster: &Cluster) -> Self {
        let mut child = victim(cluster, Point::HalfCopied, Action::Stall);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let stopped = Self(child);
        assert!(lines.any(|line| line.unwrap().ends_with("stalled")));
        kill(
            Pid::from_raw(i32::try_from(stopped.0.id()).unwrap()),
            Signal::SIGSTOP,
        )
        .unwrap();
        wait_for("the process to stop", BUSY_MACHINE, || {
            process::state(stopped.0.id()) == 'T'
        });
        stopped
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a call that must fail at its deadline, at most [`MAX_DELAY`] after it, and name the process
/// that holds the pages.
fn fails_at_deadline(what: &str, timeout: Duration, pid: u32, call: impl FnOnce() -> String) {
    let began = Instant::now();
    let error = call();
    let took = began.elapsed();
    println!("{what}, {timeout:?}: {took:?}: {error}");
    assert!(
        (timeout..timeout + MAX_DELAY).contains(&took),
        "{what}, {timeout:?}: {took:?}: {error}"
    );
    assert!(
        error.contains(&format!("process {pid} ")),
        "{what}: {error}"
    );
}

#[test]
fn a_local_call_for_the_pages_of_a_stopped_process_ends_by_its_deadline_without_effect() {
    let cluster = Cluster::builder().k(K).local().start();
    let local = local_client(&cluster);
    local.fill(0, K, 1).unwrap();
    let mut stopped = Stopped::start(&cluster);
    let pid = stopped.0.id();
    let unavailable = |outcome: Result<(), Error>| {
        let error = outcome.unwrap_err();
        assert!(
            is_error(&error, ErrorKind::Unavailable, 0),
            "the call has changed nothing: {error:?}"
        );
        error.to_string()
    };
    let start = ADDRESS.next_multiple_of(8);
    for timeout in [100, 500, 2000].map(Duration::from_millis) {
        let client = &local.clone().with_timeout(timeout);
        fails_at_deadline("write", timeout, pid, || {
            unavailable(client.write(ADDRESS, b"x"))
        });
        fails_at_deadline("read", timeout, pid, || {
            unavailable(client.read(ADDRESS, 1).map(drop))
        });
        fails_at_deadline("add", timeout, pid, || {
            unavailable(client.fetch_add(start, 1).map(drop))
        });
    }
    let timeout = Duration::from_millis(100);
    let client = &local.clone().with_timeout(timeout);
    fails_at_deadline("fill", timeout, pid, || {
        unavailable(client.fill(ADDRESS, 1, 9))
    });
    fails_at_deadline("copy", timeout, pid, || {
        unavailable(client.copy(ADDRESS + 1..ADDRESS + 2, ADDRESS))
    });
    // With a large slot; the first pages of the range are free.
    fails_at_deadline("long write", timeout, pid, || {
        unavailable(client.write(0, &vec![9; LENGTH]))
    });
    fails_at_deadline("pipeline", timeout, pid, || {
        let mut pipeline = client.pipeline();
        let submitted = pipeline.write(ADDRESS, b"x");
        unavailable(submitted.and_then(|()| pipeline.next().unwrap()).map(drop))
    });
    for line in ["write 104 x", "read 104 1"] {
        let line = format!("--timeout 100ms {line}");
        fails_at_deadline(&line, timeout, pid, || {
            let run = dsmctl::run(cluster.directory(), &cluster.config_path(), &line, b"");
            run.fails(69, &[]);
            run.stderr
        });
    }
    // dsmd tries for a second; its client does not wait that long.
    let client_over_tcp = support::client(&cluster).with_timeout(timeout);
    let began = Instant::now();
    client_over_tcp.read(ADDRESS, 1).unwrap_err();
    assert!(
        began.elapsed() < timeout + MAX_DELAY,
        "over TCP: {:?}",
        began.elapsed()
    );
    assert_eq!(
        local.data_path(0).unwrap(),
        DataPath::Local,
        "the client still uses shared memory for other pages"
    );
    stopped.kill();
    let mut expected = vec![1; usize::try_from(K).unwrap()];
    let range = usize::try_from(ADDRESS).unwrap()..usize::try_from(ADDRESS).unwrap() + LENGTH;
    expected[range].fill(2);
    assert!(
        local.read(0, K).unwrap() == expected,
        "a change took effect although its error denies it"
    );
}

#[test]
fn a_local_change_takes_effect_when_the_stopped_process_ends_before_its_deadline() {
    let cluster = Cluster::builder().k(K).local().start();
    let local = local_client(&cluster);
    local.fill(0, K, 1).unwrap();
    let mut stopped = Stopped::start(&cluster);
    std::thread::scope(|scope| {
        let change = scope.spawn(|| {
            local
                .clone()
                .with_timeout(BUSY_MACHINE)
                .write(ADDRESS, b"x")
        });
        // Longer than the time after which a process counts as stalled.
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!change.is_finished());
        stopped.kill();
        change.join().unwrap().unwrap();
    });
    assert_eq!(
        local.read(ADDRESS, 2).unwrap(),
        [b'x', 2],
        "the change follows the write of the process that ended"
    );
}

#[test]
fn a_local_client_that_exits_without_dropping_its_client_needs_no_repair() {
    let cluster = Cluster::builder().k(K).local().start();
    // The process exits after its write without dropping its client.
    let mut child = own_process::command(module_path!(), "exiting_process")
        .env("EXITING", "1")
        .env("DSM_CONFIG", cluster.config_path())
        .spawn()
        .unwrap();
    assert!(child.wait().unwrap().success());
    // The next participant takes its place, and repairs what it left.
    assert_eq!(local_client(&cluster).read(0, 1).unwrap(), [7]);
    cluster.restart(0);
    assert!(
        !cluster.stderr(0).contains("repaired participant 4"),
        "{}",
        cluster.stderr(0)
    );
    assert_eq!(
        client(&cluster).status(0).unwrap().recovery.redone_writes,
        0
    );
}

/// Not a test by itself: a program that exits without dropping its client.
#[test]
fn exiting_process() {
    if std::env::var_os("EXITING").is_some() {
        let client =
            Client::new(&dsm_config::Config::load(&dsm_config::Config::find(None)).unwrap());
        client.write(0, &[7]).unwrap();
        std::process::exit(0);
    }
}
