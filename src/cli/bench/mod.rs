//! `dsmctl bench`: load for the servers, and how they bear it.
//!
//! A closed loop over the library: `plan` decides which requests (`tasks`) there are, `load` has a
//! thread for each `connection`, what these count is a `tally`, and `report` and `json` show it.

mod arguments;
mod connection;
pub mod histogram;
mod json;
mod load;
mod picture;
mod plan;
pub mod random;
mod report;
mod tally;
mod tasks;

pub(super) use arguments::Bench;

use super::failure::Failure;
use super::output;
use super::session::Session;
use plan::Plan;

pub(super) fn run(bench: &Bench, session: &Session) -> Result<(), Failure> {
    let plan = Plan::new(bench, session.layout())?;
    let measured = load::run(&plan, session)?;
    if session.json {
        output::print_json(&json::object(&plan, &measured))?;
    } else {
        output::print(&report::text(&plan, &measured, bench.histogram))?;
    }
    let tally = &measured.tally;
    let failed = tally.failures();
    tally.code().map_or(Ok(()), |code| {
        Err(Failure::Requests {
            failed,
            asked: failed + tally.all().count,
            code,
        })
    })
}
