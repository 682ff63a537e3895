//! `dsmctl status`: shows one row with state and counters for each server.

use super::arguments::StatusArgs;
use super::context::CommandContext;
use super::failure::CliFailure;
use super::human;
use super::output::{self, Colours};
use super::servers::{ServerState, reason};
use super::table::{self, Align};
use dsm_client::Error;
use dsm_core::protocol::{LatencyBucket, LocalTraffic, MemoryState, Status};
use dsm_core::sys::terminal;
use serde_json::{Value, json};
use std::time::Duration;

const COLUMNS: [(&str, Align); 19] = [
    ("SERVER", Align::Right),
    ("ADDRESS", Align::Left),
    ("STATE", Align::Left),
    ("UPTIME", Align::Right),
    ("K", Align::Right),
    ("OVERHEAD", Align::Right),
    ("FORMAT", Align::Right),
    ("INCARNATION", Align::Left),
    ("CONNS", Align::Right),
    ("OPS", Align::Right),
    ("LOCAL", Align::Right),
    ("READ", Align::Right),
    ("WRITTEN", Align::Right),
    ("ERRORS", Align::Right),
    ("REPLAYED", Align::Right),
    ("REPAIRED", Align::Right),
    ("LOG LOST", Align::Right),
    ("P50", Align::Right),
    ("P99", Align::Right),
];

/// The columns on a terminal that is too narrow for all of them.
const NARROW: [&str; 7] = [
    "SERVER", "ADDRESS", "STATE", "UPTIME", "CONNS", "OPS", "ERRORS",
];

pub(super) fn run(arguments: &StatusArgs, context: &CommandContext) -> Result<(), CliFailure> {
    let answers = context.client.status_of_all();
    if context.json {
        let rows: Result<Vec<Value>, CliFailure> = answers
            .iter()
            .enumerate()
            .map(|(server, answer)| json_row(context, server, answer))
            .collect();
        output::print_json(&rows?.into())?;
    } else {
        let colours = Colours::stdout();
        let mut rows = vec![
            COLUMNS
                .iter()
                .map(|(name, _)| colours.heading(name))
                .collect(),
        ];
        rows.extend(
            answers
                .iter()
                .enumerate()
                .map(|(server, answer)| row(context, server, answer, colours)),
        );
        let all = table::render(&COLUMNS.map(|(_, align)| align), &rows);
        // The heading is as wide as a complete row. The row of a server that is down ends with its
        // reason, which may be longer in both tables.
        let needed = all.lines().next().map_or(0, table::visible);
        let too_wide = |columns| !arguments.wide && needed > columns;
        let narrow = terminal::columns(std::io::stdout()).is_some_and(too_wide);
        output::print(&if narrow { render_narrow(rows) } else { all })?;
    }
    let errors = answers.iter().filter_map(|answer| answer.as_ref().err());
    CliFailure::of_servers(answers.len(), errors).map_or(Ok(()), Err)
}

/// The table with only the columns of [`NARROW`].
fn render_narrow(rows: Vec<Vec<String>>) -> String {
    let is_kept = |position: usize| {
        COLUMNS
            .get(position)
            .is_some_and(|(name, _)| NARROW.contains(name))
    };
    let keep = |row: Vec<String>| {
        row.into_iter()
            .enumerate()
            .filter(|(position, _)| is_kept(*position))
            .map(|(_, cell)| cell)
            .collect()
    };
    let rows: Vec<Vec<String>> = rows.into_iter().map(keep).collect();
    let aligns: Vec<Align> = COLUMNS
        .iter()
        .filter(|(name, _)| NARROW.contains(name))
        .map(|(_, align)| *align)
        .collect();
    table::render(&aligns, &rows)
}

fn json_row(
    context: &CommandContext,
    server: usize,
    answer: &Result<Status, Error>,
) -> Result<Value, CliFailure> {
    let address = &context.layout().addresses()[server];
    let status = match answer {
        Ok(status) => status,
        Err(error) => {
            let state = ServerState::of(error).name();
            return Ok(
                json!({ "index": server, "address": address, "state": state, "error": reason(error) }),
            );
        }
    };
    let failed =
        |error: serde_json::Error| CliFailure::input_output("standard output", error.into());
    let mut value = serde_json::to_value(status).map_err(failed)?;
    value["state"] = "up".into();
    value["p50_ns"] = quantile(&status.latency, 50).into();
    value["p99_ns"] = quantile(&status.latency, 99).into();
    Ok(value)
}

fn row(
    context: &CommandContext,
    server: usize,
    answer: &Result<Status, Error>,
    colours: Colours,
) -> Vec<String> {
    let address = context.layout().addresses()[server].clone();
    let status = match answer {
        Ok(status) => status,
        Err(error) => {
            let state = colours.bad(ServerState::of(error).name());
            return vec![
                server.to_string(),
                address,
                format!("{state}: {}", reason(error)),
            ];
        }
    };
    let latency = |percent| {
        quantile(&status.latency, percent).map_or("-".to_owned(), |bound| {
            human::latency(Duration::from_nanos(bound))
        })
    };
    vec![
        server.to_string(),
        address,
        if status.memory == MemoryState::InUse {
            colours.good("up")
        } else {
            colours.bad(status.memory.as_str())
        },
        human::uptime(status.uptime_seconds),
        human::bytes(status.k),
        human::bytes(status.overhead_bytes),
        status.format.to_string(),
        status.incarnation.to_string(),
        status.connections.open.to_string(),
        status
            .operations
            .values()
            .fold(0, |sum: u64, count| sum.saturating_add(*count))
            .to_string(),
        local_operations(&status.local).to_string(),
        human::bytes(status.traffic.bytes_read),
        human::bytes(status.traffic.bytes_written),
        status.traffic.errors.to_string(),
        status.traffic.replayed.to_string(),
        status.recovery.repaired.to_string(),
        status.operation_log.lost.to_string(),
        latency(50),
        latency(99),
    ]
}

/// The operations that programs on the server's host made through shared memory.
fn local_operations(local: &LocalTraffic) -> u64 {
    [
        local.reads,
        local.writes,
        local.fills,
        local.copies,
        local.atomics,
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
}

/// The time in nanoseconds within which `percent` of the requests ended: the upper bound of the
/// bucket that contains this quantile. `None` without requests.
fn quantile(buckets: &[LatencyBucket], percent: u64) -> Option<u64> {
    let total: u128 = buckets.iter().map(|bucket| u128::from(bucket.count)).sum();
    let rank = (total * u128::from(percent)).div_ceil(100);
    let mut seen = 0;
    buckets
        .iter()
        .filter(|bucket| bucket.count > 0)
        .find(|bucket| {
            seen += u128::from(bucket.count);
            seen >= rank
        })
        .map(|bucket| bucket.below_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_shows_fewer_columns_but_every_reason() {
        let all: Vec<String> = COLUMNS.iter().map(|(name, _)| (*name).to_owned()).collect();
        let down = vec![
            "1".to_owned(),
            "[::1]:9".to_owned(),
            "down: refused".to_owned(),
        ];
        assert_eq!(
            render_narrow(vec![all, down]),
            "SERVER  ADDRESS  STATE  UPTIME  CONNS  OPS  ERRORS\n     1  [::1]:9  down: refused\n"
        );
    }

    #[test]
    fn a_quantile_is_the_upper_bound_of_its_bucket() {
        let bucket = LatencyBucket::new;
        let buckets = [
            bucket(1_000, 0),
            bucket(2_000, 98),
            bucket(4_000, 1),
            bucket(8_000, 1),
        ];
        assert_eq!(quantile(&buckets, 50), Some(2_000));
        assert_eq!(quantile(&buckets, 98), Some(2_000));
        assert_eq!(quantile(&buckets, 99), Some(4_000));
        assert_eq!(quantile(&buckets, 100), Some(8_000));
        assert_eq!(quantile(&[], 50), None);
        assert_eq!(quantile(&[bucket(1_000, 0)], 50), None);
    }
}
