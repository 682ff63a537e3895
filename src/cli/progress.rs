//! A bar on the terminal for transfers that take a while, and a line for what has no end to draw
//! near.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Transfers up to this many bytes show no bar: they are over before it could be read.
const WORTH_A_BAR: u64 = 32 << 20;

const WITH_TOTAL: &str =
    "{binary_bytes} of {binary_total_bytes} [{bar:30}] {binary_bytes_per_sec}, {eta} left";
const WITHOUT_TOTAL: &str = "{binary_bytes}, {binary_bytes_per_sec}";

/// The progress of one transfer. The bar is drawn on standard error, only when that is a terminal,
/// and is gone in the end, so that nothing of it mixes with results.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    done: u64,
    /// Whether the bar is still to be shown.
    worth_a_bar: bool,
}

impl Progress {
    /// Progress of a transfer of `total` bytes, if that is known. Its time begins now.
    pub(super) fn new(total: Option<u64>) -> Self {
        let mut progress = Self::hidden();
        progress.worth_a_bar = total.is_none_or(|total| total > WORTH_A_BAR);
        let template = if total.is_some() {
            WITH_TOTAL
        } else {
            WITHOUT_TOTAL
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            progress.bar.set_style(style.progress_chars("=> "));
        }
        if let Some(total) = total {
            progress.bar.set_length(total);
            progress.show_after(0);
        }
        progress
    }

    /// Progress that is never shown: the results themselves are on the terminal.
    pub(super) fn hidden() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self {
            bar,
            done: 0,
            worth_a_bar: false,
        }
    }

    /// Counts bytes that have been carried.
    pub(super) fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        self.show_after(WORTH_A_BAR);
        self.bar.set_position(self.done);
    }

    /// Counts up to `done` bytes that have been carried, of which fewer were before.
    pub(super) fn reach(&mut self, done: u64) {
        self.advance(done.saturating_sub(self.done));
    }

    /// Does something that writes to the terminal, out of the bar's way.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    /// Bytes carried so far.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    fn show_after(&mut self, bytes: u64) {
        if self.worth_a_bar && self.done >= bytes {
            self.worth_a_bar = false;
            // Shows nothing by itself when standard error is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A line of text on standard error that is always the newest, only when that is a terminal, and
/// gone in the end.
#[derive(Debug)]
pub(super) struct Line(ProgressBar);

impl Line {
    /// Shows nothing yet.
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// Shows this text instead of the last one.
    pub(super) fn show(&mut self, text: &str) {
        self.0.set_message(text.to_owned());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
