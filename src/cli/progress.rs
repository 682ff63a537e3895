//! A bar on the terminal for transfers that take a while.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Transfers up to this many bytes show no bar: they are over before it could be read.
const WORTH_A_BAR: u64 = 32 << 20;

const WITH_TOTAL: &str = "{binary_bytes} of {binary_total_bytes} [{bar:30}] {binary_bytes_per_sec}, {eta} left";
const WITHOUT_TOTAL: &str = "{binary_bytes}, {binary_bytes_per_sec}";

/// The progress of one transfer. The bar is drawn on standard error, only when that is a terminal, and is gone in the
/// end, so that nothing of it mixes with results.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    done: u64,
    shown: bool,
    total: Option<u64>,
}

impl Progress {
    /// Progress of a transfer of `total` bytes, if that is known.
    pub(super) fn new(total: Option<u64>) -> Self {
        Self { bar: ProgressBar::hidden(), done: 0, shown: total.is_some_and(|total| total <= WORTH_A_BAR), total }
    }

    /// Progress that is never shown: the results themselves are on the terminal.
    pub(super) fn hidden() -> Self {
        Self { bar: ProgressBar::hidden(), done: 0, shown: true, total: None }
    }

    /// Counts bytes that have been carried.
    pub(super) fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        // Only now, so that the rate does not count the time before the first answer.
        if !self.shown && (self.total.is_some() || self.done > WORTH_A_BAR) {
            self.show();
        }
        self.bar.set_position(self.done);
    }

    /// Bytes carried so far.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    fn show(&mut self) {
        self.shown = true;
        let template = if self.total.is_some() { WITH_TOTAL } else { WITHOUT_TOTAL };
        if let Ok(style) = ProgressStyle::with_template(template) {
            // The draw target shows nothing by itself when standard error is no terminal.
            self.bar = ProgressBar::with_draw_target(self.total, ProgressDrawTarget::stderr());
            self.bar.set_style(style.progress_chars("=> "));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
