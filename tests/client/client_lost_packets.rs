//! Lost packets, as when many clients connect at the same time, do not mean that the server is
//! down: clients retry until their deadline. Each test needs root, for a network namespace in which
//! the queue of connections to accept is short.

// The lint exempts #[test] functions, not the helpers that they call.
#![allow(clippy::unwrap_used)]

use nix::sys::signal::Signal;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use support::{Cluster, client, namespace};

/// The default of net.core.somaxconn before Linux 5.4.
const SHORT_QUEUE: usize = 128;

/// How long clients retry, on a machine that is busy with other tests.
const LONG: Duration = Duration::from_secs(60);

/// A server where at most `queue` connections wait to be accepted.
fn start(queue: usize, connections: usize) -> Cluster {
    std::fs::write("/proc/sys/net/core/somaxconn", queue.to_string()).unwrap();
    Cluster::builder()
        .config(&format!("[limits]\nconnections = {connections}"))
        .start()
}

fn dsmctl(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dsmctl"));
    command
        .arg("--config")
        .arg(cluster.config_path())
        .args(arguments);
    command
}

/// Stops the server and fills its queue, until it answers no packet.
fn fill_queue(cluster: &Cluster) -> Vec<TcpStream> {
    // With all processors busy, a single answer may take longer than the timeout below.
    const MAX_UNANSWERED: usize = 3;
    cluster.signal(0, Signal::SIGSTOP);
    support::wait_for("the server to stop", LONG, || {
        support::process::state(cluster.pid(0)) == 'T'
    });
    let address: SocketAddr = cluster.address(0).parse().unwrap();
    let (mut taken, mut unanswered) = (Vec::new(), 0);
    while unanswered < MAX_UNANSWERED {
        match TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            Ok(connection) => {
                taken.push(connection);
                unanswered = 0;
            }
            Err(_) => unanswered += 1,
        }
        assert!(taken.len() < 100, "the queue never fills");
    }
    taken
}

#[test]
fn ping_and_status_retry_until_their_deadline_when_packets_are_lost() {
    if !namespace::entered_with_network(
        module_path!(),
        "ping_and_status_retry_until_their_deadline_when_packets_are_lost",
    ) {
        return;
    }
    let cluster = start(1, 100);
    for command in ["ping", "status"] {
        let taken = fill_queue(&cluster);
        let mut child = dsmctl(&cluster, &["--timeout", "60s", command])
            .spawn()
            .unwrap();
        // Longer than one attempt.
        std::thread::sleep(Duration::from_millis(700));
        assert!(child.try_wait().unwrap().is_none(), "{command} gave up");
        cluster.signal(0, Signal::SIGCONT);
        assert!(child.wait().unwrap().success(), "{command} failed");
        drop(taken);

        let taken = fill_queue(&cluster);
        let begin = Instant::now();
        let output = dsmctl(&cluster, &["--timeout", "500ms", command])
            .output()
            .unwrap();
        let took = begin.elapsed();
        assert_eq!(output.status.code(), Some(69), "{command}");
        assert!(
            took >= Duration::from_millis(500),
            "{command} ended after {took:?}"
        );
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("gave up after 500ms"), "{said}");
        cluster.signal(0, Signal::SIGCONT);
        drop(taken);
    }
}

#[test]
fn ping_and_status_of_a_server_that_is_down_fail_at_once() {
    let cluster = Cluster::builder().create();
    for command in ["ping", "status"] {
        let begin = Instant::now();
        let output = dsmctl(&cluster, &["--timeout", "60s", command])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(69), "{command}");
        assert!(
            begin.elapsed() < LONG / 2,
            "{command} took {:?}",
            begin.elapsed()
        );
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("refused"),
            "{output:?}"
        );
    }
}

#[test]
fn bench_opens_a_thousand_connections_to_a_server_with_a_short_queue() {
    if !namespace::entered_with_network(
        module_path!(),
        "bench_opens_a_thousand_connections_to_a_server_with_a_short_queue",
    ) {
        return;
    }
    let cluster = start(SHORT_QUEUE, 1100);
    let arguments = [
        "--timeout",
        "60s",
        "bench",
        "--connections",
        "1000",
        "--duration",
        "200ms",
        "--warm-up",
        "0s",
    ];
    let output = dsmctl(&cluster, &arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

const CLIENTS: usize = 1000;

/// Lets a thousand clients make a change while the server is unavailable; if `known`, they were
/// connected before. Returns how long after the server's return each was served, the longest time
/// last.
fn time_a_thousand_clients(
    cluster: &Cluster,
    known: bool,
    take_down: impl FnOnce(),
    bring_up: impl FnOnce(),
) -> Vec<Duration> {
    let connected = Barrier::new(CLIENTS + 1);
    let is_down = Barrier::new(CLIENTS + 1);
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let client = || {
                    let client = client(cluster).with_timeout(LONG);
                    if known {
                        client.read(0, 8).unwrap();
                    }
                    connected.wait();
                    is_down.wait();
                    client.fetch_add(0, 1).unwrap();
                    Instant::now()
                };
                std::thread::Builder::new()
                    .stack_size(256 << 10)
                    .spawn_scoped(scope, client)
                    .unwrap()
            })
            .collect();
        connected.wait();
        take_down();
        is_down.wait();
        // By then the backoff of the clients has grown to its maximum.
        std::thread::sleep(Duration::from_secs(5));
        bring_up();
        let ready = Instant::now();
        clients
            .into_iter()
            .map(|client| client.join().unwrap().saturating_duration_since(ready))
            .collect()
    });
    times.sort_unstable();
    println!(
        "of {CLIENTS} clients half were served after {:?}, the last after {:?}",
        times[CLIENTS / 2],
        times[CLIENTS - 1]
    );
    assert_eq!(
        client(cluster).read(0, 8).unwrap(),
        (CLIENTS as u64).to_le_bytes()
    );
    times
}

#[test]
fn a_thousand_clients_are_served_again_soon_after_a_restart() {
    if !namespace::entered_with_network(
        module_path!(),
        "a_thousand_clients_are_served_again_soon_after_a_restart",
    ) {
        return;
    }
    let cluster = start(SHORT_QUEUE, CLIENTS + 100);
    let times = time_a_thousand_clients(
        &cluster,
        true,
        || cluster.kill(0),
        || cluster.start_server(0),
    );
    assert!(times[CLIENTS - 1] < LONG / 4, "{:?}", times[CLIENTS - 1]);
}

#[test]
fn a_thousand_clients_whose_packets_were_lost_are_served_soon_after_the_server_resumes() {
    if !namespace::entered_with_network(
        module_path!(),
        "a_thousand_clients_whose_packets_were_lost_are_served_soon_after_the_server_resumes",
    ) {
        return;
    }
    let cluster = start(SHORT_QUEUE, CLIENTS + 100);
    let (stop, resume) = (
        || cluster.signal(0, Signal::SIGSTOP),
        || cluster.signal(0, Signal::SIGCONT),
    );
    let times = time_a_thousand_clients(&cluster, false, stop, resume);
    assert!(times[CLIENTS - 1] < LONG / 4, "{:?}", times[CLIENTS - 1]);
}
