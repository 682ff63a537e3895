//! Packets that are lost, as when many clients come at once, are no server that is down: clients
//! try again until their deadline. Each case has a network namespace, in which queues of
//! connections are short. That takes root.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use nix::sys::signal::Signal;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use support::{Cluster, client, namespace};

/// What the default of Linux was before 5.4.
const SHORT_QUEUE: usize = 128;

/// How long clients try, on a machine that is busy with other tests.
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

/// Stops the server and takes the places of its queue, until no packet is answered any more.
fn fill_queue(cluster: &Cluster) -> Vec<TcpStream> {
    // Where all processors are busy, one answer may take as long.
    const SILENT: usize = 3;
    cluster.signal(0, Signal::SIGSTOP);
    support::wait_for("the server to stop", LONG, || {
        support::process::state(cluster.pid(0)) == 'T'
    });
    let address: SocketAddr = cluster.address(0).parse().unwrap();
    let (mut taken, mut unanswered) = (Vec::new(), 0);
    while unanswered < SILENT {
        match TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
            Ok(connection) => {
                taken.push(connection);
                unanswered = 0;
            }
            Err(_) => unanswered += 1,
        }
        assert!(taken.len() < 100, "the queue has no end");
    }
    taken
}

#[test]
fn ping_and_status_try_again_until_their_deadline_when_packets_are_lost() {
    if !namespace::entered_with_network(
        module_path!(),
        "ping_and_status_try_again_until_their_deadline_when_packets_are_lost",
    ) {
        return;
    }
    let cluster = start(1, 100);
    for command in ["ping", "status"] {
        let taken = fill_queue(&cluster);
        let mut child = dsmctl(&cluster, &["--timeout", "60s", command])
            .spawn()
            .unwrap();
        // Longer than one attempt takes.
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
fn ping_and_status_of_a_server_that_is_down_end_at_once() {
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
fn a_load_of_a_thousand_connections_begins_where_the_queue_is_short() {
    if !namespace::entered_with_network(
        module_path!(),
        "a_load_of_a_thousand_connections_begins_where_the_queue_is_short",
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

/// Lets a thousand clients, which were served before if `known`, make a change while the server is
/// away; returns how long after its return each was served, the longest time last.
fn storm(
    cluster: &Cluster,
    known: bool,
    leave: impl FnOnce(),
    come_back: impl FnOnce(),
) -> Vec<Duration> {
    let first = Barrier::new(CLIENTS + 1);
    let away = Barrier::new(CLIENTS + 1);
    let mut times: Vec<Duration> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let client = || {
                    let client = client(cluster).with_timeout(LONG);
                    if known {
                        client.read(0, 8).unwrap();
                    }
                    first.wait();
                    away.wait();
                    client.fetch_add(0, 1).unwrap();
                    Instant::now()
                };
                std::thread::Builder::new()
                    .stack_size(256 << 10)
                    .spawn_scoped(scope, client)
                    .unwrap()
            })
            .collect();
        first.wait();
        leave();
        away.wait();
        // Pauses and waits of the clients have grown to their longest.
        std::thread::sleep(Duration::from_secs(5));
        come_back();
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
    let times = storm(
        &cluster,
        true,
        || cluster.kill(0),
        || cluster.start_server(0),
    );
    assert!(times[CLIENTS - 1] < LONG / 4, "{:?}", times[CLIENTS - 1]);
}

#[test]
fn a_thousand_clients_whose_packets_were_lost_are_served_soon_after_the_server_goes_on() {
    if !namespace::entered_with_network(
        module_path!(),
        "a_thousand_clients_whose_packets_were_lost_are_served_soon_after_the_server_goes_on",
    ) {
        return;
    }
    let cluster = start(SHORT_QUEUE, CLIENTS + 100);
    let (stop, go_on) = (
        || cluster.signal(0, Signal::SIGSTOP),
        || cluster.signal(0, Signal::SIGCONT),
    );
    let times = storm(&cluster, false, stop, go_on);
    assert!(times[CLIENTS - 1] < LONG / 4, "{:?}", times[CLIENTS - 1]);
}
