//! `dsmctl bench`: puts load on the servers, and measures throughput and latency.
//!
//! The load is a closed loop over the client library: a connection makes a new request when one
//! ends. `plan` holds the checked parameters, `requests` derives the sequence of requests from
//! them, `load` runs a thread for each `connection`, each thread counts in a `tally`, and `report`
//! and `json` print the sum.

mod arguments;
mod chart;
mod connection;
pub mod histogram;
mod json;
mod load;
mod plan;
pub mod random;
mod report;
mod requests;
mod tally;

pub(super) use arguments::BenchArgs;

use super::context::CommandContext;
use super::failure::CliFailure;
use super::output;
use plan::LoadPlan;

pub(super) fn run(bench: &BenchArgs, context: &CommandContext) -> Result<(), CliFailure> {
    let plan = LoadPlan::new(bench, context.layout())?;
    let result = load::run(&plan, context)?;
    if context.json {
        output::print_json(&json::object(&plan, &result))?;
    } else {
        output::print(&report::text(&plan, &result, bench.histogram))?;
    }
    let tally = &result.tally;
    let failed = tally.failures();
    tally.code().map_or(Ok(()), |code| {
        Err(CliFailure::Requests {
            failed,
            asked: failed + tally.all().count,
            code,
        })
    })
}
