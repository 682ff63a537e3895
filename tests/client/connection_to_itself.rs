//! A client that tries a port of this host without a listener never takes itself for the server.
//! The test needs root, for a network namespace.

// The lint exempts #[test] functions, not the helpers that they call.
#![allow(clippy::unwrap_used)]

use dsm_core::net;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::net::{SocketAddr, TcpStream};
use support::namespace;
use support::wire::TEST_TIMEOUT;

/// Lets the kernel give a client only one port, the one that it wants to connect to. Each client needs
/// another: a connection keeps its port for a minute after its end.
fn leave_only(port: u16) -> SocketAddr {
    let range = format!("{port} {port}");
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).unwrap();
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn connect_without_blocking(address: SocketAddr) -> io::Result<()> {
    let stream = net::begin_connect(address)?;
    let timeout = PollTimeout::try_from(TEST_TIMEOUT.as_millis()).unwrap();
    poll(
        &mut [PollFd::new(stream.for_poll(), PollFlags::POLLOUT)],
        timeout,
    )?;
    net::finish_connect(&stream)
}

#[test]
fn a_connection_of_a_client_to_itself_is_refused() {
    if !namespace::entered_with_network(
        module_path!(),
        "a_connection_of_a_client_to_itself_is_refused",
    ) {
        return;
    }
    let address = leave_only(40000);
    let itself = TcpStream::connect(address).unwrap();
    assert_eq!(itself.local_addr().unwrap(), itself.peer_addr().unwrap());
    let blocking = net::connect(&leave_only(40001).to_string(), TEST_TIMEOUT);
    let error = blocking.map(drop).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
    let error = connect_without_blocking(leave_only(40002)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
}
