//! The differences between two layout texts, for a message to a peer. The peer's text may be
//! anything: time and size of the result are bounded.

use super::{MAX_LAYOUT_TEXT, MAX_SERVERS};
use crate::printable::printable;
use std::collections::HashMap;

/// Lines of the longest layout text: name, k, n, and one for each server.
const MAX_LINES: usize = MAX_SERVERS + 3;

/// The most differences that are listed: enough to see which file is the wrong one.
const MAX_NAMED: usize = 20;

/// The most bytes of a value, and of a field's name, that are shown. With these bounds, and
/// addresses of usual length, all listed differences fit a refusal.
const MAX_VALUE: usize = 80;
const MAX_FIELD: usize = 32;

/// The differences as `field: ours …, theirs …`, at most [`MAX_NAMED`], and one more text that
/// counts the rest. Empty when the texts are equal. The time is at most proportional to the longest
/// layout text, whatever `theirs` is.
pub(super) fn differences(own: &str, theirs: &str) -> Vec<String> {
    if own == theirs {
        return Vec::new();
    }
    if theirs.len() > MAX_LAYOUT_TEXT {
        return vec![format!(
            "theirs has {} bytes, more than the longest layout ({MAX_LAYOUT_TEXT})",
            theirs.len()
        )];
    }
    let lines = theirs.lines().count();
    if lines > MAX_LINES {
        return vec![format!(
            "theirs has {lines} lines, more than the longest layout ({MAX_LINES})"
        )];
    }
    let (ours_by_name, theirs_by_name) = (by_name(own), by_name(theirs));
    let mut differing = fields(own)
        .map(|(name, ours)| (name, Some(ours), theirs_by_name.get(name).copied()))
        .chain(
            fields(theirs)
                .map(|(name, theirs)| (name, ours_by_name.get(name).copied(), Some(theirs))),
        )
        // From the second half, keep only fields that the first half does not have.
        .enumerate()
        .filter(|(place, (_, ours, theirs))| {
            ours != theirs && (*place < ours_by_name.len() || ours.is_none())
        })
        .map(|(_, difference)| difference);
    let mut named: Vec<String> = differing
        .by_ref()
        .take(MAX_NAMED)
        .map(|(name, ours, theirs)| {
            let value =
                |value: Option<&str>| printable(value.unwrap_or("nothing"), MAX_VALUE).into_owned();
            format!(
                "{}: ours {}, theirs {}",
                printable(name, MAX_FIELD),
                value(ours),
                value(theirs)
            )
        })
        .collect();
    match (named.len(), differing.count()) {
        (0, _) => named.push("the order or the ends of the lines".to_owned()),
        (_, 0) => {}
        (_, more) => named.push(format!("and {more} more")),
    }
    named
}

fn fields(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines()
        .map(|line| line.split_once('=').unwrap_or((line, "")))
}

/// The values by field name; the first one if a field occurs twice.
fn by_name(text: &str) -> HashMap<&str, &str> {
    let mut found = HashMap::new();
    for (name, value) in fields(text) {
        found.entry(name).or_insert(value);
    }
    found
}
