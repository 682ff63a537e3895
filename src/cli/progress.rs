//! Progress on standard error, only if it is a terminal: a bar for long transfers, and a status
//! line for loads. Both are erased in the end, so that they never mix with results.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Transfers of up to this many bytes show no bar, since they end too soon to read it.
const MIN_BYTES_FOR_BAR: u64 = 32 << 20;

const WITH_TOTAL: &str =
    "{binary_bytes} of {binary_total_bytes} [{bar:30}] {binary_bytes_per_sec}, {eta} left";
const WITHOUT_TOTAL: &str = "{binary_bytes}, {binary_bytes_per_sec}";

/// The progress bar of one transfer.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    done: u64,
    /// Whether the transfer is long enough for a bar that is not yet visible.
    pending: bool,
}

impl Progress {
    /// Starts the clock of a transfer of `total` bytes; `None` if the total is unknown.
    pub(super) fn new(total: Option<u64>) -> Self {
        let mut progress = Self::hidden();
        progress.pending = total.is_none_or(|total| total > MIN_BYTES_FOR_BAR);
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

    /// A bar that is never visible, for results that go to the terminal themselves.
    pub(super) fn hidden() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self {
            bar,
            done: 0,
            pending: false,
        }
    }

    /// Adds transferred bytes.
    pub(super) fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        self.show_after(MIN_BYTES_FOR_BAR);
        self.bar.set_position(self.done);
    }

    /// Sets the number of transferred bytes, which never decreases.
    pub(super) fn reach(&mut self, done: u64) {
        self.advance(done.saturating_sub(self.done));
    }

    /// Hides the bar while `write` writes to the terminal.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    /// Bytes transferred so far.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// Makes the bar visible once `bytes` bytes have been transferred.
    fn show_after(&mut self, bytes: u64) {
        if self.pending && self.done >= bytes {
            self.pending = false;
            // indicatif draws nothing if standard error is not a terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// One line of text that each update replaces.
#[derive(Debug)]
pub(super) struct StatusLine(ProgressBar);

impl StatusLine {
    /// An empty line.
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// Replaces the text.
    pub(super) fn show(&mut self, text: &str) {
        self.0.set_message(text.to_owned());
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
