//! mcomp.cfg(5) documents every key that the parser knows, with its range and default, and no other
//! key.

use dsm_config::{Config, Key, keys};
use std::collections::BTreeMap;
use std::path::Path;
use support::skip;

const PAGE: &str = include_str!("../../man/mcomp.cfg.5");

/// The text of each `.It Ic key`, without macros and quotes, by the key's full name.
fn entries() -> BTreeMap<String, String> {
    let mut entries: BTreeMap<String, String> = BTreeMap::new();
    let (mut table, mut key) = (None, None);
    for line in PAGE.lines() {
        if let Some(title) = line.strip_prefix(".Ss ") {
            table = Some(if title.starts_with('[') {
                format!("{}.", title.trim_matches(['[', ']', '\\', '&']))
            } else {
                String::new()
            });
        } else if line.starts_with(".Sh ") {
            (table, key) = (None, None);
        } else if line == ".El" {
            key = None;
        } else if let (Some(table), Some(name)) = (&table, line.strip_prefix(".It Ic ")) {
            let name = format!("{table}{name}");
            assert!(
                entries.insert(name.clone(), String::new()).is_none(),
                "{name} has two entries"
            );
            key = Some(name);
        } else if let Some(text) = key.as_ref().and_then(|key| entries.get_mut(key)) {
            // A macro's name is the first word of its line.
            let words = if line.starts_with('.') {
                line.split_once(' ').map_or("", |(_, words)| words)
            } else {
                line
            };
            text.push_str(&words.replace("\\(aq", "'"));
            text.push(' ');
        }
    }
    entries
}

#[test]
fn every_key_has_an_entry_in_the_manual_page_and_every_entry_is_a_key() {
    let (known, documented) = (keys(), entries());
    for Key { name, .. } in &known {
        assert!(
            documented.contains_key(name),
            "{name} has no entry in man/mcomp.cfg.5"
        );
    }
    for name in documented.keys() {
        assert!(
            known.iter().any(|key| key.name == *name),
            "man/mcomp.cfg.5 has {name}, which the parser does not know"
        );
    }
}

#[test]
fn the_manual_page_has_the_range_and_the_default_of_every_key() {
    let documented = entries();
    for Key {
        name,
        default,
        allowed,
    } in keys()
    {
        let text = &documented[&name];
        let first = allowed
            .split(", ")
            .next()
            .unwrap_or_default()
            .trim_matches('"');
        assert!(
            text.contains(first),
            "the entry of {name} must say {first:?}: {text}"
        );
        if let Some(default) = default {
            let sentence = format!("The default is {default}");
            let ends = text
                .find(&sentence)
                .map(|start| &text[start + sentence.len()..]);
            assert!(
                ends.is_some_and(|end| end.starts_with([' ', '.'])),
                "{name}: {sentence:?} is missing: {text}"
            );
        }
    }
}

#[test]
fn the_order_of_the_entries_is_the_order_of_the_settings() {
    let entries: Vec<&str> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix(".It Ic "))
        .collect();
    let keys = keys();
    let names: Vec<&str> = keys.iter().map(|key| key.split().1).collect();
    assert_eq!(entries, names);
}

#[test]
fn the_examples_in_the_manual_page_are_valid() {
    let examples: Vec<&str> = PAGE
        .split(".Bd -literal -offset indent\n")
        .skip(1)
        .collect();
    assert_eq!(examples.len(), 3);
    for example in examples {
        let text = example.split(".Ed").next().unwrap_or_default();
        Config::parse(text, Path::new("man/mcomp.cfg.5"))
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
}

#[test]
fn the_manual_page_is_clean_mdoc() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/man/mcomp.cfg.5");
    let output = match std::process::Command::new("mandoc")
        .args(["-Tlint", "-Wstyle", page])
        .output()
    {
        Ok(output) => output,
        Err(error) => return skip::skip(format!("mandoc cannot be run: {error}")),
    };
    // Whether mandoc finds a referenced page depends on the installed packages.
    let complaints = String::from_utf8_lossy(&output.stdout);
    let complaints: Vec<&str> = complaints
        .lines()
        .filter(|line| !line.contains("referenced manual not found"))
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
