//! Limits the rate of log lines that a peer can cause.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The lines allowed per period.
const LINES: u32 = 10;
const PERIOD: Duration = Duration::from_secs(10);

/// Allows a few lines per period: a peer that floods the port does not flood the log.
#[derive(Default)]
pub(crate) struct LogRateLimit(Mutex<Option<(Instant, u32)>>);

impl LogRateLimit {
    /// Whether a line may be written now; if so, it is counted.
    pub(crate) fn allows(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, lines) = match *state {
            Some((began, lines)) if began.elapsed() < PERIOD => (began, lines),
            _ => (Instant::now(), 0),
        };
        *state = Some((began, lines + 1));
        lines < LINES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_cut_to_a_few() {
        let limit = LogRateLimit::default();
        assert_eq!((0..1000).filter(|_| limit.allows()).count(), LINES as usize);
    }
}
