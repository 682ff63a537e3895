//! The report as JSON, for programs.

use super::load::{LoadResult, per_second};
use super::plan::{AddressPattern, LoadEnd, LoadPlan, RequestKind};
use super::tally::{FailedRequests, Latencies};
use dsm_client::ServerIndex;
use serde_json::{Value, json};
use std::time::Duration;

/// The plan and the result as one object.
pub(super) fn object(plan: &LoadPlan, result: &LoadResult) -> Value {
    let tally = &result.tally;
    let elapsed = tally.elapsed();
    let mut object = json!({
        "plan": of_plan(plan),
        "elapsed_ns": nanoseconds(elapsed),
        "paths": result.paths.iter().map(|path| path.name()).collect::<Vec<_>>(),
        "interrupted": result.interrupted,
        "failed": tally.failures(),
        "errors": tally.failed.iter().map(of_failed).collect::<Vec<_>>(),
        "all": of_latencies(&tally.all(), plan.size, elapsed),
    });
    for kind in plan.kinds() {
        object[kind.plural()] = of_latencies(tally.of(kind), plan.size, elapsed);
    }
    object
}

fn of_plan(plan: &LoadPlan) -> Value {
    let (duration, count) = match plan.end {
        LoadEnd::After(time) => (Some(nanoseconds(time)), None),
        LoadEnd::Count(count) => (None, Some(count)),
    };
    json!({
        "address": plan.address,
        "length": plan.length,
        "size": plan.size,
        "reads_percent": plan.reads,
        "change": (plan.reads < 100).then_some(if plan.change == RequestKind::Add { "add" } else { "write" }),
        "connections": plan.connections,
        "depth": plan.depth,
        "duration_ns": duration,
        "count": count,
        "warm_up_ns": nanoseconds(plan.warm_up),
        "pattern": if plan.pattern == AddressPattern::Random { "random" } else { "sequential" },
        "seed": plan.seed,
    })
}

fn of_failed(failed: &FailedRequests) -> Value {
    json!({
        "kind": failed.kind(),
        "server": failed.error.server().map(ServerIndex::get),
        "count": failed.count,
        "message": failed.error.to_string(),
    })
}

fn of_latencies(latencies: &Latencies, size: u64, elapsed: Duration) -> Value {
    let bytes = latencies.count * size;
    let latency = latencies.summary().map(|[min, mean, p50, p90, p99, p999, max]| {
        let bucket = |(from, below, count)| json!({ "from_ns": from, "below_ns": below, "count": count });
        json!({
            "min_ns": min, "mean_ns": mean, "p50_ns": p50, "p90_ns": p90, "p99_ns": p99, "p99_9_ns": p999, "max_ns": max,
            "histogram": latencies.buckets().map(bucket).collect::<Vec<_>>(),
        })
    });
    json!({
        "operations": latencies.count,
        "operations_per_second": per_second(latencies.count, elapsed),
        "bytes": bytes,
        "bytes_per_second": per_second(bytes, elapsed),
        "latency": latency,
    })
}

/// Nanoseconds, at most `u64::MAX`, which is 584 years.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
