//! Clients as most tests want them.
// Each test binary uses its own part of the helpers.
#![allow(dead_code, unreachable_pub)]

use dsm_client::Client;
use dsm_config::LocalAccess;
use dsm_core::layout::Layout;

/// A client of the memory with this layout that goes over TCP, on the servers' own host too.
pub fn client_of(layout: Layout) -> Client {
    Client::with_layout(layout).with_local(LocalAccess::Never)
}
