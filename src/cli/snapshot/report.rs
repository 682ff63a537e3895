//! The output of `dsmctl snapshot diff`.

use super::compare::Differences;
use crate::cli::failure::CliFailure;
use crate::cli::human;
use crate::cli::output::OutputStream;
use crate::cli::progress::Progress;
use serde_json::Value;
use std::io::Write;
use std::ops::Range;

/// Prints the ranges that differ as they are found.
pub(super) struct Report {
    output: OutputStream,
    json: bool,
    progress: Progress,
    total: u64,
    differences: Differences,
    first: bool,
}

impl Report {
    /// Starts the report of a comparison of `total` bytes; `theirs` is `None` for the live memory.
    pub(super) fn begin(
        ours: &str,
        theirs: Option<&str>,
        total: u64,
        json: bool,
    ) -> Result<Self, CliFailure> {
        let (differences, progress) = (Differences::default(), Progress::new(Some(total)));
        let mut report = Self {
            output: OutputStream::stdout()?,
            json,
            progress,
            total,
            differences,
            first: true,
        };
        if json {
            let (file, other) = (Value::from(ours), Value::from(theirs));
            let beginning =
                format!("{{\"file\":{file},\"other\":{other},\"compared\":{total},\"ranges\":[");
            report.put(beginning.as_bytes())?;
        }
        Ok(report)
    }

    /// Adds to a failure how many bytes were compared before it.
    pub(super) fn failed(&self, failure: CliFailure) -> CliFailure {
        failure.after("compared", self.progress.done(), Some(self.total))
    }

    /// Whether no difference has been found so far.
    pub(super) fn is_equal(&self) -> bool {
        self.differences.bytes == 0
    }

    /// Counts bytes that are zeros in both memories.
    pub(super) fn skip(&mut self, bytes: u64) {
        self.progress.advance(bytes);
    }

    /// Compares the bytes of both memories from `address` on, and prints the complete ranges.
    pub(super) fn window(
        &mut self,
        address: u64,
        ours: &[u8],
        theirs: &[u8],
    ) -> Result<(), CliFailure> {
        let mut found = Vec::new();
        self.differences
            .compare(address, ours, theirs, |range| found.push(range));
        self.print(&found)?;
        self.progress.advance(ours.len() as u64);
        Ok(())
    }

    fn print(&mut self, ranges: &[Range<u64>]) -> Result<(), CliFailure> {
        if ranges.is_empty() {
            return Ok(());
        }
        let (json, first) = (self.json, &mut self.first);
        let mut text = Vec::new();
        for Range { start, end } in ranges {
            let length = end - start;
            let comma = if std::mem::take(first) { "" } else { "," };
            // Writing to a vector cannot fail.
            let _ = if json {
                write!(text, "{comma}{{\"address\":{start},\"length\":{length}}}")
            } else {
                writeln!(text, "{start} {length}")
            };
        }
        self.put(&text)
    }

    /// Prints the last range and the summary.
    pub(super) fn finish(&mut self) -> Result<(), CliFailure> {
        let mut last = Vec::new();
        self.differences.close(|range| last.push(range));
        self.print(&last)?;
        let Differences { bytes, ranges, .. } = self.differences;
        let end = match (self.json, bytes) {
            (true, _) => format!("],\"bytes\":{bytes}}}\n"),
            (false, 0) => return Ok(()),
            (false, _) => format!(
                "{} in {} {}\n",
                human::count_of_bytes(bytes),
                human::count(ranges, "range"),
                if bytes == 1 { "differs" } else { "differ" }
            ),
        };
        self.put(end.as_bytes())
    }

    /// Writes and flushes `text` while the progress bar is hidden.
    fn put(&mut self, text: &[u8]) -> Result<(), CliFailure> {
        let output = &mut self.output;
        self.progress
            .suspend(|| output.put(|writer| writer.write_all(text).and_then(|()| writer.flush())))
    }
}
