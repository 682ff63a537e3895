//! Foreign text made harmless: what a peer, a file or another user chose neither steers a terminal,
//! nor looks like a line of the program's, nor fills a log.
//!
//! Every edge where such text enters calls [`printable`], with a bound that suits the place. What
//! has passed an edge is shown as it is.

use std::borrow::Cow;

/// The most bytes of foreign text in one log line.
pub const LOG: usize = 512;

/// Stands where something was cut away.
const CUT: char = '…';

/// Whether a character may reach a terminal: it is seen, it moves nothing, and it does not reorder
/// its neighbours.
#[must_use]
pub fn is_printable(character: char) -> bool {
    !character.is_control() && !is_format(character)
}

/// Characters that are not seen and change how others are (general category Cf, and the two
/// separators of lines): marks, embeddings, overrides and isolates of the bidirectional algorithm,
/// joiners, fillers, annotations, tags.
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

/// The text with what is not printable escaped as in Rust (`\n`, `\u{1b}`), cut to at most `most`
/// bytes, of which an ellipsis is the last when something is missing. What is the result already
/// stays as it is.
pub fn printable(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most && text.chars().all(is_printable) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::new();
    // Where to cut when not all of it fits: before the first character that leaves no room for the
    // ellipsis.
    let mut cut = 0;
    for character in text.chars() {
        if is_printable(character) {
            shown.push(character);
        } else {
            shown.extend(character.escape_default());
        }
        if shown.len() > most {
            shown.truncate(cut);
            if CUT.len_utf8() <= most {
                shown.push(CUT);
            }
            break;
        }
        if shown.len() + CUT.len_utf8() <= most {
            cut = shown.len();
        }
    }
    Cow::Owned(shown)
}

/// [`printable`] for bytes that should be UTF-8; what is not becomes U+FFFD.
#[must_use]
pub fn printable_bytes(bytes: &[u8], most: usize) -> String {
    // More bytes than `most` make more than `most` bytes of text, and need not be looked at.
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(most.saturating_add(1))]);
    printable(&text, most).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_steers_a_terminal_is_escaped_and_the_rest_stays() {
        let evil = "k: \x1b]0;title\x07 \x1b[2J\r\n\x7f\u{9b}31m \u{202e}gpj.exe\u{2069}\u{200b}";
        let shown = "k: \\u{1b}]0;title\\u{7} \\u{1b}[2J\\r\\n\\u{7f}\\u{9b}31m \\u{202e}gpj.exe\\u{2069}\\u{200b}";
        assert_eq!(printable(evil, LOG), shown);
        let good = "Größe \"größer\" als 5 µs: 日本語 \\u{1b}";
        assert!(matches!(printable(good, LOG), Cow::Borrowed(text) if text == good));
        assert_eq!(printable_bytes(b"\xff\x1b[m", LOG), "\u{fffd}\\u{1b}[m");
    }

    #[test]
    fn what_is_too_long_is_cut_at_a_character_and_says_so() {
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
        fn no_text_becomes_longer_than_allowed_or_stays_dangerous(text in ".*", most in 0_usize..40) {
            let text = format!("{text}\u{202e}{text}\x1b");
            let shown = printable(&text, most);
            prop_assert!(shown.len() <= most);
            prop_assert!(shown.chars().all(is_printable));
            prop_assert_eq!(printable(&shown, most), shown.as_ref());
            prop_assert!(printable_bytes(text.as_bytes(), most).len() <= most);
        }
    }
}
