//! Measures calls that read a whole memory of one or more servers.

use crate::contents;
use dsm_benches::pattern::BytePattern;
use dsm_client::Client;
use dsm_config::{Config, LocalAccess};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::time::Instant;

/// Measures the memory of each mcomp.cfg. Returns the seconds of a read in each round, by the
/// number of servers.
pub(crate) fn measure(paths: &[PathBuf], rounds: usize, reads: u32) -> Result<Value, String> {
    let pattern = BytePattern::new(1);
    let mut clients = Vec::new();
    for path in paths {
        let config = Config::load(path).map_err(|error| error.to_string())?;
        // TCP alone: the measurement stands for servers on other hosts.
        let client = Client::new(&config).with_local(LocalAccess::Never);
        contents::fill(&client, &pattern)?;
        clients.push(client);
    }
    let size = usize::try_from(clients[0].size()).map_err(|error| error.to_string())?;
    let mut buffer = vec![0; size];
    for client in &clients {
        buffer.fill(0);
        read(client, &mut buffer, 1)?;
        contents::check_all(&buffer, &pattern)?;
    }
    let mut found = Vec::new();
    for number in 0..rounds {
        // The order rotates, so that no memory always follows the same one.
        clients.rotate_left(number.min(1));
        let mut round = Map::new();
        for client in &clients {
            round.insert(
                client.layout().server_count().to_string(),
                read(client, &mut buffer, reads)?.into(),
            );
        }
        found.push(Value::from(round));
    }
    Ok(json!({ "rounds": found }))
}

/// Reads the whole memory `reads` times. Returns the seconds per read.
fn read(client: &Client, buffer: &mut [u8], reads: u32) -> Result<f64, String> {
    let begin = Instant::now();
    for _ in 0..reads {
        client
            .read_into(0, buffer)
            .map_err(|error| error.to_string())?;
    }
    Ok(begin.elapsed().as_secs_f64() / f64::from(reads))
}
