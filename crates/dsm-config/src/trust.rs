//! Whether dsmd and its snapshot agent may listen on their addresses.

use super::{Config, Place};
use std::path::PathBuf;

/// Other machines can reach the address of a server or of its snapshot agent, and mcomp.cfg does
/// not set `trusted_network`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}:{}:{}: {who} {index} has the address {address:?}, which other machines can reach, so that each of them can \
     read and write the memory: set trusted_network = true in [security] if all of them may, else use a loopback address",
    .path.display(), .place.line, .place.column
)]
pub struct UntrustedAddress {
    /// The file.
    pub path: PathBuf,
    /// Where the file has the address.
    pub place: Place,
    /// "server", or "the snapshot agent of server".
    pub who: &'static str,
    /// The server's index.
    pub index: usize,
    /// The address.
    pub address: String,
}

impl Config {
    /// Why dsmd must not serve as server `index`. `None` when the address is a loopback address, or
    /// the network is trusted.
    #[must_use]
    pub fn untrusted_address(&self, index: usize) -> Option<UntrustedAddress> {
        let server = self.servers.get(index)?;
        if self.security.trusted_network || server.address.is_loopback() {
            return None;
        }
        let place = self.place(&format!("server.{index}.address"));
        let address = server.address.to_string();
        Some(UntrustedAddress {
            path: self.path.clone(),
            place,
            who: "server",
            index,
            address,
        })
    }

    /// Checks that the snapshot agent of server `index` may listen on its address.
    ///
    /// # Errors
    /// When the address is not a loopback address and the network is not trusted.
    pub fn check_trusted_agent(&self, index: usize) -> Result<(), UntrustedAddress> {
        let agent = self
            .servers
            .get(index)
            .and_then(|server| server.snapshot.as_ref());
        let Some(address) =
            agent.filter(|address| !self.security.trusted_network && !address.is_loopback())
        else {
            return Ok(());
        };
        let (path, place) = (
            self.path.clone(),
            self.place(&format!("server.{index}.snapshot")),
        );
        let who = "the snapshot agent of server";
        Err(UntrustedAddress {
            path,
            place,
            who,
            index,
            address: address.to_string(),
        })
    }

    /// Checks that dsmd may serve as server `index`.
    ///
    /// # Errors
    /// The error of [`Config::untrusted_address`].
    pub fn check_trusted(&self, index: usize) -> Result<(), UntrustedAddress> {
        self.untrusted_address(index).map_or(Ok(()), Err)
    }
}
