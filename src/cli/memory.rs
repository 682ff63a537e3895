//! `dsmctl memory`: what becomes of a memory that was lost.

use super::arguments::{AcceptEmpty, Global};
use super::failure::Failure;
use super::{output, session};
use dsm_snapshot::AgentError;
use serde_json::{Value, json};

pub(super) fn accept_empty(accept: &AcceptEmpty, global: &Global) -> Result<(), Failure> {
    let config = session::load(global)?;
    let n = config.layout.n();
    if let Some(server) = accept.server.filter(|server| *server >= n) {
        return Err(Failure::Usage(format!(
            "there is no server {server}: the last one is {}",
            n - 1
        )));
    }
    let mut answers = dsm_snapshot::accept_empty(&config, accept.server);
    if answers
        .iter()
        .any(|(_, answer)| !matches!(answer, Err(AgentError::InUse { .. })))
    {
        // Those that have their memory were not meant.
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
                // Of several, the last one is what the command fails with; the others are shown.
                if let Some(earlier) = failed.replace(Failure::from(error)) {
                    output::complain(&earlier);
                }
            }
        }
    }
    if global.json {
        output::print_json(&Value::from(rows))?;
    }
    failed.map_or(Ok(()), Err)
}
