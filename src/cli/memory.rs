//! `dsmctl memory accept-empty`: lets servers that lost their memory start with zeros.

use super::arguments::{AcceptEmptyArgs, GlobalOptions};
use super::failure::CliFailure;
use super::{context, output};
use dsm_snapshot::AgentError;
use serde_json::{Value, json};

pub(super) fn accept_empty(
    accept: &AcceptEmptyArgs,
    global: &GlobalOptions,
) -> Result<(), CliFailure> {
    let config = context::load(global)?;
    let n = config.layout.server_count();
    if let Some(server) = accept.server.filter(|server| *server >= n) {
        return Err(CliFailure::Usage(format!(
            "there is no server {server}: give an index from 0 to {}",
            n - 1
        )));
    }
    let mut answers = dsm_snapshot::accept_empty(&config, accept.server);
    if answers
        .iter()
        .any(|(_, answer)| !matches!(answer, Err(AgentError::InUse { .. })))
    {
        // Servers that still have their memory do not wait, so their refusals are no failures,
        // unless no server waits.
        answers.retain(|(_, answer)| !matches!(answer, Err(AgentError::InUse { .. })));
    }
    let mut failed = None;
    let mut rows = Vec::new();
    for (server, answer) in answers {
        match answer {
            Ok(incarnation) => {
                let incarnation = format!("{incarnation:016x}");
                if !global.json {
                    output::print(&format!(
                        "server {server} begins with zeros, incarnation {incarnation}\n"
                    ))?;
                }
                rows.push(json!({ "index": server, "incarnation": incarnation }));
            }
            Err(error) => {
                rows.push(json!({ "index": server, "error": error.to_string() }));
                // The command fails with the last error, and prints those before it here.
                if let Some(earlier) = failed.replace(CliFailure::from(error)) {
                    output::print_error(&earlier);
                }
            }
        }
    }
    if global.json {
        output::print_json(&Value::from(rows))?;
    }
    failed.map_or(Ok(()), Err)
}
