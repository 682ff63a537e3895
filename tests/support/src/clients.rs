//! Clients and checks of their errors that many tests need.

use dsm_client::{Client, Error, ErrorKind, ServerIndex};
use dsm_config::LocalAccess;
use dsm_core::layout::Layout;

/// A client of the memory with this layout that always uses TCP, also on a host with shared memory.
pub fn client_of(layout: Layout) -> Client {
    Client::with_layout(layout).with_local(LocalAccess::Never)
}

/// Whether an error is of this kind, and about this server.
#[must_use]
pub fn is_error(error: &Error, kind: ErrorKind, server: usize) -> bool {
    error.kind() == kind && error.server() == Some(ServerIndex::new(server))
}
