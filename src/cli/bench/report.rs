//! The report for people.

use super::load::{Measured, per_second};
use super::picture;
use super::plan::{Pattern, Plan};
use super::tally::{Latencies, Tally};
use crate::cli::human;
use crate::cli::output::Colours;
use crate::cli::table::{self, Align};
use std::fmt::Write;
use std::time::Duration;

const COLUMNS: [&str; 11] = [
    "", "OPS", "OPS/S", "BYTES/S", "MIN", "MEAN", "P50", "P90", "P99", "P99.9", "MAX",
];

/// What was done, a table of what was counted, and what failed; and pictures, if they are wanted.
pub(super) fn text(plan: &Plan, measured: &Measured, pictures: bool) -> String {
    let (tally, colours) = (&measured.tally, Colours::stdout());
    let mut text = format!(
        "{}\n{}",
        heading(plan, measured),
        rows(plan, tally, colours)
    );
    for failed in &tally.failed {
        let kind = colours.bad(failed.kind());
        let requests = human::count(failed.count, "request");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{requests} failed: {kind}: {}", failed.error);
    }
    for kind in plan.kinds().filter(|_| pictures) {
        text.push_str(&picture::text(kind.plural(), tally.of(kind)));
    }
    text
}

fn heading(plan: &Plan, measured: &Measured) -> String {
    let order = match plan.pattern {
        Pattern::Random => format!("at random (seed {})", plan.seed),
        Pattern::Sequential => "one after the other".to_owned(),
    };
    format!(
        "{} of {}, addresses {} to {} {order}, {}, depth {}, {}, {:.2} s{}",
        plan.kinds()
            .map(super::plan::Kind::plural)
            .collect::<Vec<_>>()
            .join(" and "),
        human::exact_bytes(plan.size),
        plan.address,
        plan.address + (plan.length - 1),
        human::count(plan.connections, "connection"),
        plan.depth,
        measured
            .paths
            .iter()
            .map(|path| path.name())
            .collect::<Vec<_>>()
            .join(" and "),
        measured.tally.elapsed().as_secs_f64(),
        if measured.interrupted {
            ", interrupted"
        } else {
            ""
        },
    )
}

fn rows(plan: &Plan, tally: &Tally, colours: Colours) -> String {
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
