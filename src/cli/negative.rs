//! Arguments that begin with a minus and are data: negative numbers, and what stands after `--`.
//!
//! clap takes `-0x5` and `-inf` for bundles of options, and a `-` after `--` for the same as one
//! before it. What is data gets a mark before clap sees it. The mark is a NUL, which no argument
//! from the operating system can hold.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

const MARK: u8 = 0;

/// The options whose next argument is none of theirs; and `--range`, whose two numbers are to be
/// marked when they are negative, as any other number is, so that the error can say so.
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

/// The same mark in texts that clap made of arguments.
pub(super) const MARK_IN_TEXT: char = '\0';

/// Marks what is data. The first argument is the program's name.
pub(super) fn mark(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut marked = Vec::new();
    // Whether all that follows is data, and whether the next argument is the value of an option.
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
            [&[MARK], argument.as_bytes()].concat()
        } else {
            argument.into_vec()
        });
    }
    marked.into_iter().map(OsString::from_vec).collect()
}

/// The argument without its mark.
pub(super) fn unmark(argument: &OsStr) -> &OsStr {
    OsStr::from_bytes(
        argument
            .as_bytes()
            .strip_prefix(&[MARK])
            .unwrap_or(argument.as_bytes()),
    )
}

/// The text of an argument without its mark.
pub(super) fn unmark_text(text: &str) -> &str {
    text.strip_prefix(MARK_IN_TEXT).unwrap_or(text)
}

/// The path without its mark. A `-` that stood after `--` is a file of that name, and no stream.
pub(super) fn unmark_path(path: PathBuf) -> PathBuf {
    match path.as_os_str().as_bytes().strip_prefix(&[MARK]) {
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

/// Whether the argument is an option whose value is the next one. A switch counts as none.
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
    fn negative_numbers_and_a_minus_after_two_are_data() {
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
