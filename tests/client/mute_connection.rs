//! A connection whose packets are lost is noticed within seconds, and its session is resumed on
//! another one inside the caller's deadline. A server that is only slow keeps its connection. Each
//! test needs root, for a network namespace.

// The lint exempts #[test] functions, not the helpers that they call.
#![allow(clippy::unwrap_used)]

use dsm_client::Client;
use nix::sys::signal::Signal;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};
use support::wire::TEST_TIMEOUT;
use support::{Cluster, client, namespace, process, wait_for};

const K: u64 = 16 << 20;

/// The deadline of the calls: much longer than it takes to notice.
const LONG: Duration = Duration::from_secs(60);

fn start() -> (Cluster, Client) {
    let cluster = Cluster::start(1, K);
    let client = client(&cluster).with_timeout(LONG);
    // Opens a connection, which the next calls use.
    client.fetch_add(0, 1).unwrap();
    (cluster, client)
}

fn server(cluster: &Cluster) -> SocketAddrV4 {
    cluster.address(0).parse().unwrap()
}

/// The clients' ends of the connections to the server, as the kernel lists them.
fn connections(cluster: &Cluster) -> Vec<SocketAddrV4> {
    const ESTABLISHED: &str = "01";
    let address = |text: &str| {
        let (ip, port) = text.split_once(':').unwrap();
        let ip = u32::from_str_radix(ip, 16).unwrap();
        SocketAddrV4::new(
            Ipv4Addr::from(ip.to_le_bytes()),
            u16::from_str_radix(port, 16).unwrap(),
        )
    };
    let listed = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let connections = listed.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let is_ours = fields[3] == ESTABLISHED && address(fields[2]) == server(cluster);
        is_ours.then(|| address(fields[1]))
    });
    let mut connections: Vec<_> = connections.collect();
    connections.sort_unstable();
    connections
}

fn stop(cluster: &Cluster) {
    cluster.signal(0, Signal::SIGSTOP);
    wait_for("the server to stop", TEST_TIMEOUT, || {
        process::state(cluster.pid(0)) == 'T'
    });
}

#[test]
fn a_change_whose_reply_is_lost_with_its_connection_takes_effect_once_within_seconds() {
    if !namespace::entered_with_network(
        module_path!(),
        "a_change_whose_reply_is_lost_with_its_connection_takes_effect_once_within_seconds",
    ) {
        return;
    }
    let (cluster, client) = start();
    let mute = connections(&cluster)[0];
    // The server receives the request and executes it. Its reply is lost, and so is what
    // acknowledges the request.
    namespace::drop_packets(server(&cluster), mute);
    let began = Instant::now();
    assert_eq!(client.fetch_add(0, 1).unwrap(), 1);
    let took = began.elapsed();
    println!("the session was resumed after {took:?}");
    assert!(took < LONG / 6, "{took:?}");
    assert_eq!(client.read(0, 8).unwrap(), 2_u64.to_le_bytes());
    assert!(!connections(&cluster).contains(&mute));
}

#[test]
fn a_machine_that_falls_silent_after_it_took_a_request_is_noticed() {
    if !namespace::entered_with_network(
        module_path!(),
        "a_machine_that_falls_silent_after_it_took_a_request_is_noticed",
    ) {
        return;
    }
    let (cluster, client) = start();
    let mute = connections(&cluster)[0];
    stop(&cluster);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| client.fetch_add(0, 1));
        // The kernel of the stopped server acknowledges the request at once.
        std::thread::sleep(Duration::from_millis(300));
        namespace::drop_packets(server(&cluster), mute);
        wait_for("another connection", LONG / 6, || {
            connections(&cluster).iter().any(|client| *client != mute)
        });
        cluster.signal(0, Signal::SIGCONT);
        assert_eq!(call.join().unwrap().unwrap(), 1);
    });
    assert_eq!(client.read(0, 8).unwrap(), 2_u64.to_le_bytes());
}

#[test]
fn a_stopped_server_keeps_its_connection_whether_or_not_it_has_room_for_more() {
    if !namespace::entered_with_network(
        module_path!(),
        "a_stopped_server_keeps_its_connection_whether_or_not_it_has_room_for_more",
    ) {
        return;
    }
    let (cluster, client) = start();
    let accepted = || client.status(0).unwrap().connections.accepted;
    let (before, accepted_before) = (connections(&cluster), accepted());
    let data = vec![7; 8 << 20];
    stop(&cluster);
    std::thread::scope(|scope| {
        // More than the buffers of the sockets hold: the kernel of the server lets the client wait.
        let long = scope.spawn(|| client.write(4096, &data));
        let opened = scope.spawn(|| client.fetch_add(0, 1));
        wait_for("the second connection", TEST_TIMEOUT, || {
            connections(&cluster).len() == 2
        });
        let during = connections(&cluster);
        // Twice as long as it takes to notice a mute connection.
        std::thread::sleep(Duration::from_secs(6));
        assert_eq!(connections(&cluster), during, "it was cut off");
        cluster.signal(0, Signal::SIGCONT);
        long.join().unwrap().unwrap();
        assert_eq!(opened.join().unwrap().unwrap(), 1);
    });
    let after = connections(&cluster);
    assert!(before.iter().all(|client| after.contains(client)));
    assert_eq!(accepted(), accepted_before + 1);
}
