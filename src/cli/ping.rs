//! `dsmctl ping`: measures the round-trip time to servers, and shows whether their data goes over
//! TCP or through shared memory.

use super::arguments::PingArgs;
use super::context::CommandContext;
use super::failure::CliFailure;
use super::human;
use super::output::{self, Colours};
use super::servers::{ServerState, ask_each, reason};
use super::table::{self, Align};
use dsm_client::{DataPath, Error};
use serde_json::{Value, json};
use std::time::Duration;

/// The times of the round trips to one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RoundTrips {
    least: Duration,
    mean: Duration,
    greatest: Duration,
}

pub(super) fn run(ping: &PingArgs, context: &CommandContext) -> Result<(), CliFailure> {
    let n = context.layout().server_count();
    let servers: Vec<usize> = match ping.server {
        Some(server) if server >= n => {
            let known = if n == 1 {
                "server 0 only".to_owned()
            } else {
                format!("the servers 0 to {}", n - 1)
            };
            let message = format!("there is no server {server}: the configuration has {known}");
            return Err(CliFailure::Usage(message));
        }
        Some(server) => vec![server],
        None => (0..n).collect(),
    };
    let answers = ask_each(&servers, |server| {
        let times = measure(ping.count, || context.client.ping(server))?;
        Ok((times, context.client.data_path(server)?))
    });
    show(ping, context, &servers, &answers)?;
    let errors = answers.iter().filter_map(|answer| answer.as_ref().err());
    CliFailure::of_servers(servers.len(), errors).map_or(Ok(()), Err)
}

/// Pings `count` times in sequence, and stops at the first failure.
fn measure(count: u32, ping: impl Fn() -> Result<Duration, Error>) -> Result<RoundTrips, Error> {
    let mut times = RoundTrips {
        least: Duration::MAX,
        mean: Duration::ZERO,
        greatest: Duration::ZERO,
    };
    let mut sum = Duration::ZERO;
    for _ in 0..count {
        let time = ping()?;
        times.least = times.least.min(time);
        times.greatest = times.greatest.max(time);
        sum += time;
    }
    times.mean = sum / count.max(1);
    Ok(times)
}

fn show(
    ping: &PingArgs,
    context: &CommandContext,
    servers: &[usize],
    answers: &[Result<(RoundTrips, DataPath), Error>],
) -> Result<(), CliFailure> {
    let addresses = context.layout().addresses();
    if context.json {
        let rows: Vec<Value> = servers
            .iter()
            .zip(answers)
            .map(|(server, answer)| match answer {
                Ok((times, path)) => json!({
                    "index": server, "address": addresses[*server], "state": "up", "count": ping.count,
                    "least_ns": nanoseconds(times.least), "mean_ns": nanoseconds(times.mean),
                    "greatest_ns": nanoseconds(times.greatest), "path": path.name(),
                }),
                Err(error) => json!({
                    "index": server, "address": addresses[*server], "state": ServerState::of(error).name(),
                    "error": reason(error),
                }),
            })
            .collect();
        return output::print_json(&rows.into());
    }
    let colours = Colours::stdout();
    let rows: Vec<Vec<String>> = servers
        .iter()
        .zip(answers)
        .map(|(server, answer)| {
            let result = match answer {
                Ok((times, path)) if ping.count == 1 => {
                    format!("{}  {}", human::latency(times.mean), path.name())
                }
                Ok((times, path)) => format!(
                    "{} round trips: least {}, mean {}, greatest {}  {}",
                    ping.count,
                    human::latency(times.least),
                    human::latency(times.mean),
                    human::latency(times.greatest),
                    path.name()
                ),
                Err(error) => format!(
                    "{}: {}",
                    colours.bad(ServerState::of(error).name()),
                    reason(error)
                ),
            };
            vec![format!("server {server} ({})", addresses[*server]), result]
        })
        .collect();
    output::print(&table::render(&[Align::Left; 2], &rows))
}

/// Nanoseconds for JSON, at most `u64::MAX`, which is 584 years.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn least_mean_and_greatest_are_those_of_the_round_trips() {
        let next = Cell::new(0);
        let times = measure(3, || {
            next.set(next.get() + 1);
            Ok(Duration::from_millis(next.get()))
        });
        let milliseconds = Duration::from_millis;
        assert_eq!(
            times.unwrap(),
            RoundTrips {
                least: milliseconds(1),
                mean: milliseconds(2),
                greatest: milliseconds(3)
            }
        );
    }
}
