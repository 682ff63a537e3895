//! The histogram of latencies as a bar chart of characters.

use super::tally::Latencies;
use crate::cli::human;
use crate::cli::table::{self, Align};
use std::time::Duration;

/// Characters of the longest bar.
const WIDTH: u128 = 40;

/// A chart with a row for each bucket, from the fastest requests to the slowest. The bounds of the
/// buckets are 1, 2 and 5 times the powers of ten. A measured bucket that overlaps two of
/// them counts to the one that contains its middle.
pub(super) fn text(name: &str, latencies: &Latencies) -> String {
    let buckets = decimal_buckets(latencies.buckets());
    let (Some(first), Some(last)) = (
        buckets.iter().position(|bucket| bucket.1 > 0),
        buckets.iter().rposition(|bucket| bucket.1 > 0),
    ) else {
        return String::new();
    };
    let greatest = buckets
        .iter()
        .map(|bucket| bucket.1)
        .max()
        .unwrap_or(1)
        .max(1);
    let latency = |nanoseconds| human::latency(Duration::from_nanos(nanoseconds));
    let rows: Vec<Vec<String>> = buckets[first..=last]
        .iter()
        .map(|(below, count)| {
            // Rounded up, so that one request among a million still has a visible bar.
            let length = (u128::from(*count) * WIDTH).div_ceil(u128::from(greatest));
            let bar: String = (0..length).map(|_| '#').collect();
            let thousandths = u128::from(*count) * 100_000 / u128::from(latencies.count.max(1));
            let percent = format!("{}.{:03} %", thousandths / 1000, thousandths % 1000);
            vec![
                format!("below {}", latency(*below)),
                count.to_string(),
                percent,
                bar,
            ]
        })
        .collect();
    format!(
        "\n{name}\n{}",
        table::render(
            &[Align::Right, Align::Right, Align::Right, Align::Left],
            &rows
        )
    )
}

/// The upper bound of each bucket of the chart in nanoseconds, and the number of requests below it
/// that are not below the bound before.
fn decimal_buckets(measured: impl Iterator<Item = (u64, u64, u64)>) -> Vec<(u64, u64)> {
    let bounds = (0..=18).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
    let mut buckets: Vec<(u64, u64)> = bounds.chain([u64::MAX]).map(|bound| (bound, 0)).collect();
    for (from, below, count) in measured {
        let middle = from + (below - from) / 2;
        if let Some(bucket) = buckets.iter_mut().find(|(bound, _)| middle < *bound) {
            bucket.1 += count;
        }
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_in_one_bucket() {
        let measured = [
            (0, 1, 2),
            (15, 16, 3),
            (1_000, 1_040, 5),
            (1_980, 2_040, 7),
            (u64::MAX - 9, u64::MAX, 1),
        ];
        let buckets = decimal_buckets(measured.into_iter());
        let filled: Vec<(u64, u64)> = buckets.into_iter().filter(|bucket| bucket.1 > 0).collect();
        assert_eq!(
            filled,
            [(1, 2), (20, 3), (2_000, 5), (5_000, 7), (u64::MAX, 1)]
        );
        assert_eq!(text("reads", &Latencies::new()), "");
    }
}
