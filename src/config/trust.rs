//! Whether dsmd may listen on its address.

use super::{Config, Place};
use std::path::PathBuf;

/// A server's address can be reached from other machines, and mcomp.cfg does not call their network trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}:{}:{}: server {index} has the address {address:?}, which other machines can reach, and whoever reaches it can read \
     and write the memory: set trusted_network = true in [security] if all of them may, else use a loopback address",
    .path.display(), .place.line, .place.column
)]
pub struct UntrustedAddress {
    /// The file.
    pub path: PathBuf,
    /// Where in it the address is.
    pub place: Place,
    /// The server's index.
    pub index: usize,
    /// The server's address.
    pub address: String,
}

impl Config {
    /// Why dsmd must not serve as server `index`. None when it may: the address is a loopback address, or the network
    /// is trusted.
    #[must_use]
    pub fn untrusted_address(&self, index: usize) -> Option<UntrustedAddress> {
        let server = self.servers.get(index)?;
        if self.security.trusted_network || server.address.is_loopback() {
            return None;
        }
        let place = self.place(&format!("server.{index}.address"));
        Some(UntrustedAddress { path: self.path.clone(), place, index, address: server.address.to_string() })
    }

    /// Checks that dsmd may serve as server `index`.
    ///
    /// # Errors
    /// What [`Config::untrusted_address`] says.
    pub fn check_trusted(&self, index: usize) -> Result<(), UntrustedAddress> {
        self.untrusted_address(index).map_or(Ok(()), Err)
    }
}
