//! What is wrong with a mcomp.cfg, and where.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The most diagnostics that one [`ConfigError`] lists: more would scroll the first ones off the
/// screen.
pub const MAX_DIAGNOSTICS: usize = 20;

/// A place in the file. Lines and columns count from 1; a column is one character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The character in that line.
    pub column: usize,
}

impl Place {
    /// The beginning of the file: the place of a key that the file lacks.
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

/// One error in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Diagnostic {
    /// Where it is.
    pub place: Place,
    /// What was found, and what is allowed.
    pub message: String,
}

/// Why a mcomp.cfg cannot be used. [`ConfigError::Invalid`] displays one line for each error in the
/// file: `file:line:column: message`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}: {source}: {} with --config or DSM_CONFIG", .path.display(), hint(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file is longer than any configuration.
    #[error(
        "{} is longer than {limit} bytes, which no mcomp.cfg is: name another file with --config or DSM_CONFIG",
        .path.display()
    )]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The most bytes that are read.
        limit: u64,
    },
    /// The file has at least one error.
    #[error("{}", Listing { path, diagnostics })]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The errors, at least one, in the order of the file.
        diagnostics: Vec<Diagnostic>,
    },
    /// The operating system did not say how much shared memory the machine has.
    #[error("cannot find out how much {directory} can hold: {source}: mount a tmpfs there")]
    SharedMemory {
        /// Where shared memory is mounted.
        directory: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl ConfigError {
    /// The error of a file with a single diagnostic.
    pub(super) fn single(path: &Path, place: Place, message: String) -> Self {
        Self::Invalid {
            path: path.to_owned(),
            diagnostics: vec![Diagnostic { place, message }],
        }
    }
}

/// What to do about a file that cannot be read; the message ends with how to name another file.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "create it, or name another file",
        io::ErrorKind::PermissionDenied => "let this user read it, or name another file",
        io::ErrorKind::IsADirectory => "name the file in it",
        _ => "name another file",
    }
}

struct Listing<'a> {
    path: &'a Path,
    diagnostics: &'a [Diagnostic],
}

impl fmt::Display for Listing<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        for (
            index,
            Diagnostic {
                place: Place { line, column },
                message,
            },
        ) in self.diagnostics.iter().enumerate()
        {
            let separator = if index == 0 { "" } else { "\n" };
            write!(formatter, "{separator}{path}:{line}:{column}: {message}")?;
        }
        Ok(())
    }
}

/// Converts byte offsets to places.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let after_breaks = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(offset, _)| offset + 1);
        Self {
            text,
            starts: std::iter::once(0).chain(after_breaks).collect(),
        }
    }

    /// The place of the byte at `offset`; an offset past the end is the end.
    pub(super) fn place(&self, offset: usize) -> Place {
        let offset = offset.min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts.get(line - 1).copied().unwrap_or_default();
        let column = self
            .text
            .get(start..offset)
            .map_or(offset - start, |before| before.chars().count())
            + 1;
        Place { line, column }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let lines = Lines::new("a\nöb\n\nc");
        let places = [
            (0, 1, 1),
            (1, 1, 2),
            (2, 2, 1),
            (4, 2, 2),
            (5, 2, 3),
            (6, 3, 1),
            (7, 4, 1),
            (8, 4, 2),
            (99, 4, 2),
        ];
        for (offset, line, column) in places {
            assert_eq!(
                lines.place(offset),
                Place { line, column },
                "offset {offset}"
            );
        }
        assert_eq!(Lines::new("").place(0), Place::START);
    }
}
