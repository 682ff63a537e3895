//! The system's resolver.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

/// The socket addresses of `host:port`. Blocks for as long as the system takes to look a name up;
/// [`super::resolve`] does not.
///
/// # Errors
/// When the name cannot be resolved.
pub(super) fn look_up(address: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(address.to_socket_addrs()?.collect())
}
