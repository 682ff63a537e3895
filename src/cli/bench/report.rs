//! The report as text, for people.

use super::chart;
use super::load::{LoadResult, per_second};
use super::plan::{AddressPattern, LoadPlan};
use super::tally::{Latencies, Tally};
use crate::cli::human;
use crate::cli::output::Colours;
use crate::cli::table::{self, Align};
use std::fmt::Write;
use std::time::Duration;

const COLUMNS: [&str; 11] = [
    "", "OPS", "OPS/S", "BYTES/S", "MIN", "MEAN", "P50", "P90", "P99", "P99.9", "MAX",
];

/// A heading with the plan, a table of the results and the failures; with `charts`, also a
/// histogram of the latencies.
pub(super) fn text(plan: &LoadPlan, result: &LoadResult, charts: bool) -> String {
    let (tally, colours) = (&result.tally, Colours::stdout());
    let mut text = format!("{}\n{}", heading(plan, result), rows(plan, tally, colours));
    for failed in &tally.failed {
        let kind = colours.bad(failed.kind());
        let requests = human::count(failed.count, "request");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{requests} failed: {kind}: {}", failed.error);
    }
    for kind in plan.kinds().filter(|_| charts) {
        text.push_str(&chart::text(kind.plural(), tally.of(kind)));
    }
    text
}

fn heading(plan: &LoadPlan, result: &LoadResult) -> String {
    let order = match plan.pattern {
        AddressPattern::Random => format!("at random (seed {})", plan.seed),
        AddressPattern::Sequential => "in ascending order".to_owned(),
    };
    format!(
        "{} of {}, addresses {} to {} {order}, {}, depth {}, {}, {:.2} s{}",
        plan.kinds()
            .map(super::plan::RequestKind::plural)
            .collect::<Vec<_>>()
            .join(" and "),
        human::exact_bytes(plan.size),
        plan.address,
        plan.address + (plan.length - 1),
        human::count(plan.connections, "connection"),
        plan.depth,
        result
            .paths
            .iter()
            .map(|path| path.name())
            .collect::<Vec<_>>()
            .join(" and "),
        result.tally.elapsed().as_secs_f64(),
        if result.interrupted {
            ", interrupted"
        } else {
            ""
        },
    )
}

fn rows(plan: &LoadPlan, tally: &Tally, colours: Colours) -> String {
    let elapsed = tally.elapsed();
    let mut rows = vec![
        COLUMNS
            .map(|name| {
                if name.is_empty() {
                    String::new()
                } else {
                    colours.heading(name)
                }
            })
            .to_vec(),
    ];
    rows.extend(
        plan.kinds()
            .map(|kind| row(kind.plural(), tally.of(kind), plan.size, elapsed)),
    );
    if plan.kinds().count() > 1 {
        rows.push(row("all", &tally.all(), plan.size, elapsed));
    }
    let aligns: Vec<Align> = COLUMNS
        .iter()
        .map(|name| {
            if name.is_empty() {
                Align::Left
            } else {
                Align::Right
            }
        })
        .collect();
    table::render(&aligns, &rows)
}

fn row(name: &str, latencies: &Latencies, size: u64, elapsed: Duration) -> Vec<String> {
    let rate = per_second(latencies.count, elapsed);
    let bytes = per_second(latencies.count * size, elapsed);
    let mut row = vec![
        name.to_owned(),
        latencies.count.to_string(),
        rate.to_string(),
        human::bytes(bytes),
    ];
    match latencies.summary() {
        Some(summary) => row.extend(summary.map(|time| human::latency(Duration::from_nanos(time)))),
        None => row.extend(["-"; 7].map(str::to_owned)),
    }
    row
}
