//! Sanitised foreign text: text that a peer, a file or another user chose can neither control a
//! terminal, nor imitate a line of this program, nor fill a log.
//!
//! Every place where such text enters the program calls [`printable`], with a bound that suits it.
//! After that the text is shown unchanged.

use std::borrow::Cow;

/// The most bytes of foreign text in one log line.
pub const MAX_LOG_TEXT: usize = 512;

/// Marks text that was cut.
const ELLIPSIS: char = '…';

/// Whether a character may reach a terminal: it is visible, does not move the cursor, and does not
/// reorder its neighbours.
#[must_use]
pub fn is_printable(character: char) -> bool {
    !character.is_control() && !is_format(character)
}

/// Invisible characters that change how others are shown (general category Cf, and the two line
/// separators): marks, embeddings, overrides and isolates of the bidirectional algorithm, joiners,
/// fillers, annotations, tags.
fn is_format(character: char) -> bool {
    matches!(
        character,
        '\u{ad}'
            | '\u{600}'..='\u{605}'
            | '\u{61c}'
            | '\u{6dd}'
            | '\u{70f}'
            | '\u{890}'..='\u{891}'
            | '\u{8e2}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{110bd}'
            | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// Escapes unprintable characters as Rust does (`\n`, `\u{1b}`), and cuts the result to at most
/// `limit` bytes, of which an ellipsis is the last character if something was cut. Applied to its
/// own result it changes nothing.
pub fn printable(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit && text.chars().all(is_printable) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::new();
    // Where to cut if the text is too long: the last character boundary that leaves room for the
    // ellipsis.
    let mut cut = 0;
    for character in text.chars() {
        if is_printable(character) {
            shown.push(character);
        } else {
            shown.extend(character.escape_default());
        }
        if shown.len() > limit {
            shown.truncate(cut);
            if ELLIPSIS.len_utf8() <= limit {
                shown.push(ELLIPSIS);
            }
            break;
        }
        if shown.len() + ELLIPSIS.len_utf8() <= limit {
            cut = shown.len();
        }
    }
    Cow::Owned(shown)
}

/// [`printable`] for bytes that should be UTF-8; invalid bytes become U+FFFD.
#[must_use]
pub fn printable_bytes(bytes: &[u8], limit: usize) -> String {
    // More than `limit` bytes give more than `limit` bytes of text, so the rest need not be read.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(limit.saturating_add(1))]);
    printable(&text, limit).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn characters_that_control_a_terminal_are_escaped_and_no_others() {
        let evil = "k: \x1b]0;title\x07 \x1b[2J\r\n\x7f\u{9b}31m \u{202e}gpj.exe\u{2069}\u{200b}";
        let shown = "k: \\u{1b}]0;title\\u{7} \\u{1b}[2J\\r\\n\\u{7f}\\u{9b}31m \\u{202e}gpj.exe\\u{2069}\\u{200b}";
        assert_eq!(printable(evil, MAX_LOG_TEXT), shown);
        let good = "Größe \"größer\" als 5 µs: 日本語 \\u{1b}";
        assert!(matches!(printable(good, MAX_LOG_TEXT), Cow::Borrowed(text) if text == good));
        assert_eq!(
            printable_bytes(b"\xff\x1b[m", MAX_LOG_TEXT),
            "\u{fffd}\\u{1b}[m"
        );
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_marked() {
        assert_eq!(printable("abcdef", 6), "abcdef");
        assert_eq!(printable("abcdefg", 6), "abc…");
        assert_eq!(printable("äöüß", 6), "ä…");
        assert_eq!(printable("ab\x1b[31m", 8), "ab…");
        assert_eq!(printable("\x1b", 6), "\\u{1b}");
        assert_eq!(printable("abcdefg", 2), "");
        assert_eq!(printable_bytes(&[b'x'; 1000], 8), "xxxxx…");
        assert_eq!(printable_bytes(&[0x80; 1000], 8), "\u{fffd}…");
    }

    proptest! {
        #[test]
        fn every_result_is_printable_and_within_the_bound(text in ".*", limit in 0_usize..40) {
            let text = format!("{text}\u{202e}{text}\x1b");
            let shown = printable(&text, limit);
            prop_assert!(shown.len() <= limit);
            prop_assert!(shown.chars().all(is_printable));
            prop_assert_eq!(printable(&shown, limit), shown.as_ref());
            prop_assert!(printable_bytes(text.as_bytes(), limit).len() <= limit);
        }
    }
}
