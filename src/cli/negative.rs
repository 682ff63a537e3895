//! Arguments that begin with a minus but are data: negative numbers, and a `-` after `--`.
//!
//! clap would parse `-0x5` and `-inf` as options, and does not tell a `-` after `--` from one
//! before it. This module therefore puts a marker in front of such arguments before clap parses
//! them, and the parsers of values remove it. The marker is a NUL, which no argument of a process
//! can contain.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

const MARKER: u8 = 0;

/// The options without a value; and `--range`, whose two numbers are marked if they are negative,
/// so that the error message can say that they are.
const SWITCHES: [&[u8]; 11] = [
    b"--json",
    b"--wide",
    b"--help",
    b"-h",
    b"--version",
    b"-V",
    b"--allow-partial",
    b"--force",
    b"--yes",
    b"--histogram",
    b"--range",
];

/// The marker in texts that clap made of arguments.
pub(super) const MARKER_IN_TEXT: char = '\0';

/// Puts the marker in front of data that begins with a minus. The first argument is the name of the
/// program.
pub(super) fn mark(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut marked = Vec::new();
    // Whether `--` has come, and whether the next argument is the value of an option.
    let (mut only_data, mut is_value) = (false, false);
    for (position, argument) in arguments.into_iter().enumerate() {
        let is_data = position > 0
            && if only_data {
                argument == "-"
            } else {
                !is_value && is_negative(&argument)
            };
        only_data |= argument == "--";
        is_value = !is_data && takes_a_value(argument.as_bytes());
        marked.push(if is_data {
            [&[MARKER], argument.as_bytes()].concat()
        } else {
            argument.into_vec()
        });
    }
    marked.into_iter().map(OsString::from_vec).collect()
}

/// The argument without its marker.
pub(super) fn unmark(argument: &OsStr) -> &OsStr {
    OsStr::from_bytes(
        argument
            .as_bytes()
            .strip_prefix(&[MARKER])
            .unwrap_or(argument.as_bytes()),
    )
}

/// The text of an argument without its marker.
pub(super) fn unmark_text(text: &str) -> &str {
    text.strip_prefix(MARKER_IN_TEXT).unwrap_or(text)
}

/// The path without its marker. A `-` after `--` is a file of this name, not standard output.
pub(super) fn unmark_path(path: PathBuf) -> PathBuf {
    match path.as_os_str().as_bytes().strip_prefix(&[MARKER]) {
        Some(rest) => Path::new(".").join(OsStr::from_bytes(rest)),
        None => path,
    }
}

fn is_negative(argument: &OsStr) -> bool {
    let Some(rest) = argument.as_bytes().strip_prefix(b"-") else {
        return false;
    };
    let digits = rest.strip_prefix(b".").unwrap_or(rest);
    let names: [&[u8]; 3] = [b"inf", b"infinity", b"nan"];
    digits.first().is_some_and(u8::is_ascii_digit)
        || names.iter().any(|name| rest.eq_ignore_ascii_case(name))
}

/// Whether the argument is an option whose value is the next argument.
fn takes_a_value(argument: &[u8]) -> bool {
    let option = argument.len() > 1 && argument.starts_with(b"-") && argument != b"--";
    option && !argument.contains(&b'=') && !SWITCHES.contains(&argument)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(line: &str) -> String {
        let marked = mark(line.split(' ').map(OsString::from));
        let texts: Vec<_> = marked
            .iter()
            .map(|argument| argument.to_string_lossy().replace('\0', "*"))
            .collect();
        texts.join(" ")
    }

    #[test]
    fn negative_numbers_and_a_minus_after_two_minuses_are_data() {
        for (line, expected) in [
            (
                "dsmctl write 0 -5 -0x5 -.5 -INF -nan",
                "dsmctl write 0 *-5 *-0x5 *-.5 *-INF *-nan",
            ),
            ("dsmctl write 0 - --json -1", "dsmctl write 0 - --json *-1"),
            ("dsmctl write 0 -- - -5", "dsmctl write 0 -- *- -5"),
            (
                "dsmctl write 0 --file -5 -o -1 --type=u8 -1",
                "dsmctl write 0 --file -5 -o -1 --type=u8 *-1",
            ),
            (
                "dsmctl write 0 -foo -h --tpye",
                "dsmctl write 0 -foo -h --tpye",
            ),
            (
                "dsmctl snapshot diff F --range -1 -2",
                "dsmctl snapshot diff F --range *-1 *-2",
            ),
            (
                "dsmctl snapshot restore --yes -1",
                "dsmctl snapshot restore --yes *-1",
            ),
        ] {
            assert_eq!(marked(line), expected);
        }
        assert_eq!(unmark(OsStr::new("\0-")), "-");
        assert_eq!(unmark_path("\0-".into()), Path::new("./-"));
        assert_eq!((unmark_text("\0-1"), unmark_text("1")), ("-1", "1"));
    }
}
