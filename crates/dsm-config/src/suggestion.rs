//! Finds the known word that a misspelt one stands for.

/// The word of `known` that is nearest to `found`, if they differ in no more than a third of its
/// letters. Upper and lower case are equal.
pub(super) fn suggest<'k>(found: &str, known: &[&'k str]) -> Option<&'k str> {
    // The distance takes time proportional to the length of `found`, which a file chooses. A word
    // much longer than every known one matches none of them.
    let longest = known.iter().map(|word| word.len()).max()?;
    if found.len() > 2 * longest {
        return None;
    }
    let found = found.to_lowercase();
    known
        .iter()
        .map(|word| (distance(&found, word), *word))
        .filter(|(distance, word)| *distance <= word.len() / 3)
        .min()
        .map(|(_, word)| word)
}

/// The number of characters to insert, delete or replace, by Wagner and Fischer's algorithm (JACM
/// 21, 1974).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_finds_the_known_one_and_another_word_finds_none() {
        let known = ["k", "n", "address", "hello_timeout", "request_timeout"];
        let pairs = [
            ("adress", "address"),
            ("K", "k"),
            ("Address", "address"),
            ("request_timout", "request_timeout"),
        ];
        for (found, word) in pairs {
            assert_eq!(suggest(found, &known), Some(word));
        }
        for found in ["x", "", "port", "timeout", "ĸ", &"address".repeat(1000)] {
            assert_eq!(suggest(found, &known), None, "{found}");
        }
        assert_eq!(suggest("k", &[]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
