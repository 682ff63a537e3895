//! What a command that uses the memory needs: the configuration and a client.

use super::arguments::Global;
use super::failure::Failure;
use dsm_client::Client;
use dsm_config::Config;
use dsm_core::layout::Layout;
use std::time::Duration;

/// Bytes that one step of a transfer carries, and so about what dsmctl holds at a time. A multiple
/// of eight.
pub(super) const CHUNK: u64 = 8 << 20;

/// A configuration, and the client made from it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) config: Config,
    pub(super) client: Client,
    /// Whether results are JSON.
    pub(super) json: bool,
    /// What a call has, if the command line says so.
    timeout: Option<Duration>,
}

/// Loads the configuration that the command line or the environment names.
pub(super) fn load(global: &Global) -> Result<Config, Failure> {
    Ok(Config::load(&Config::find(global.config.as_deref()))?)
}

impl Session {
    /// Loads the configuration. Connects to no server yet.
    pub(super) fn open(global: &Global) -> Result<Self, Failure> {
        let config = load(global)?;
        let client = client(&config, global.timeout);
        Ok(Self {
            config,
            client,
            json: global.json,
            timeout: global.timeout,
        })
    }

    /// Another client, which shares no connection with the first.
    pub(super) fn another_client(&self) -> Client {
        client(&self.config, self.timeout)
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.config.layout
    }

    /// Fails unless the whole range is inside the memory: a transfer in steps must not find out in
    /// its last one.
    pub(super) fn check(&self, address: u64, length: u64) -> Result<(), Failure> {
        Ok(self.layout().pieces(address, length).map(drop)?)
    }
}

fn client(config: &Config, timeout: Option<Duration>) -> Client {
    let client = Client::new(config);
    match timeout {
        Some(timeout) => client.with_timeout(timeout),
        None => client,
    }
}
