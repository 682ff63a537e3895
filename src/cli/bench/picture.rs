//! A histogram in characters.

use super::tally::Latencies;
use crate::cli::human;
use crate::cli::table::{self, Align};
use std::time::Duration;

/// Characters of the longest bar.
const WIDTH: u128 = 40;

/// The bars, from the fastest requests to the slowest. Each is from one to two, two to five, or
/// five to ten times a power of ten; what a bucket of the measurement has across two of them counts
/// to the one where its middle is.
pub(super) fn text(name: &str, latencies: &Latencies) -> String {
    let bars = bars(latencies.buckets());
    let (Some(first), Some(last)) = (
        bars.iter().position(|bar| bar.1 > 0),
        bars.iter().rposition(|bar| bar.1 > 0),
    ) else {
        return String::new();
    };
    let greatest = bars.iter().map(|bar| bar.1).max().unwrap_or(1).max(1);
    let latency = |nanoseconds| human::latency(Duration::from_nanos(nanoseconds));
    let rows: Vec<Vec<String>> = bars[first..=last]
        .iter()
        .map(|(below, count)| {
            // Rounded up, so that one request is seen beside a million.
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

/// The bound of each bar, in nanoseconds, and how many requests stayed below it and not below the
/// one before.
fn bars(buckets: impl Iterator<Item = (u64, u64, u64)>) -> Vec<(u64, u64)> {
    let bounds = (0..=18).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
    let mut bars: Vec<(u64, u64)> = bounds.chain([u64::MAX]).map(|bound| (bound, 0)).collect();
    for (from, below, count) in buckets {
        let middle = from + (below - from) / 2;
        if let Some(bar) = bars.iter_mut().find(|(bound, _)| middle < *bound) {
            bar.1 += count;
        }
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_in_one_bar() {
        let buckets = [
            (0, 1, 2),
            (15, 16, 3),
            (1_000, 1_040, 5),
            (1_980, 2_040, 7),
            (u64::MAX - 9, u64::MAX, 1),
        ];
        let bars = bars(buckets.into_iter());
        let filled: Vec<(u64, u64)> = bars.iter().copied().filter(|bar| bar.1 > 0).collect();
        assert_eq!(
            filled,
            [(1, 2), (20, 3), (2_000, 5), (5_000, 7), (u64::MAX, 1)]
        );
        assert_eq!(text("reads", &Latencies::new()), "");
    }
}
