//! What `dsmctl snapshot diff` prints.

use super::compare::Differences;
use crate::cli::failure::Failure;
use crate::cli::human;
use crate::cli::output::Output;
use crate::cli::progress::Progress;
use serde_json::Value;
use std::io::Write;
use std::ops::Range;

/// What was found, printed as it is found.
pub(super) struct Report {
    output: Output,
    json: bool,
    progress: Progress,
    total: u64,
    differences: Differences,
    first: bool,
}

impl Report {
    /// Begins the report of a comparison of `total` bytes; `theirs` is none for the live memory.
    pub(super) fn begin(
        ours: &str,
        theirs: Option<&str>,
        total: u64,
        json: bool,
    ) -> Result<Self, Failure> {
        let (differences, progress) = (Differences::default(), Progress::new(Some(total)));
        let mut report = Self {
            output: Output::stdout()?,
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

    /// This failure, with how far the comparison had come.
    pub(super) fn failed(&self, failure: Failure) -> Failure {
        failure.after("compared", self.progress.done(), Some(self.total))
    }

    /// Whether anything differs so far.
    pub(super) fn is_equal(&self) -> bool {
        self.differences.bytes == 0
    }

    /// Counts bytes that need no look.
    pub(super) fn skip(&mut self, bytes: u64) {
        self.progress.advance(bytes);
    }

    /// Compares the bytes of both from `address` on, and prints what is found.
    pub(super) fn window(
        &mut self,
        address: u64,
        ours: &[u8],
        theirs: &[u8],
    ) -> Result<(), Failure> {
        let mut found = Vec::new();
        self.differences
            .compare(address, ours, theirs, |range| found.push(range));
        self.print(&found)?;
        self.progress.advance(ours.len() as u64);
        Ok(())
    }

    fn print(&mut self, ranges: &[Range<u64>]) -> Result<(), Failure> {
        if ranges.is_empty() {
            return Ok(());
        }
        let (json, first) = (self.json, &mut self.first);
        let mut text = Vec::new();
        for Range { start, end } in ranges {
            let length = end - start;
            let comma = if std::mem::take(first) { "" } else { "," };
            // A vector takes everything.
            let _ = if json {
                write!(text, "{comma}{{\"address\":{start},\"length\":{length}}}")
            } else {
                writeln!(text, "{start} {length}")
            };
        }
        self.put(&text)
    }

    /// Prints the last range and the summary.
    pub(super) fn finish(&mut self) -> Result<(), Failure> {
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

    /// Writes out of the way of the bar, at once.
    fn put(&mut self, text: &[u8]) -> Result<(), Failure> {
        let output = &mut self.output;
        self.progress
            .aside(|| output.put(|writer| writer.write_all(text).and_then(|()| writer.flush())))
    }
}
