//! The configuration and the client, for the commands that use the memory.

use super::arguments::GlobalOptions;
use super::failure::CliFailure;
use dsm_client::Client;
use dsm_config::Config;
use dsm_core::layout::Layout;

/// Bytes that one step of a transfer moves, and so about the memory that dsmctl needs. A multiple
/// of eight, so that no number is cut in two.
pub(super) const CHUNK: u64 = 8 << 20;

/// A configuration and the client that uses it.
#[derive(Debug)]
pub(super) struct CommandContext {
    pub(super) config: Config,
    pub(super) client: Client,
    /// Whether to print results as JSON.
    pub(super) json: bool,
}

/// Loads the configuration that the command line or the environment names.
pub(super) fn load(global: &GlobalOptions) -> Result<Config, CliFailure> {
    Ok(Config::load(&Config::find(global.config.as_deref()))?)
}

impl CommandContext {
    /// Loads the configuration, without connecting to a server.
    pub(super) fn open(global: &GlobalOptions) -> Result<Self, CliFailure> {
        let config = load(global)?;
        let client = Client::new(&config);
        let client = match global.timeout {
            Some(timeout) => client.with_timeout(timeout),
            None => client,
        };
        Ok(Self {
            config,
            client,
            json: global.json,
        })
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.config.layout
    }

    /// Fails unless the whole range is inside the memory. A transfer checks this before its first
    /// step, so that it does not fail in its last one.
    pub(super) fn check(&self, address: u64, length: u64) -> Result<(), CliFailure> {
        Ok(self.layout().pieces(address, length).map(drop)?)
    }
}
