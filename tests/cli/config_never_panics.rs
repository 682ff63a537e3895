//! The parser of the configuration never panics, and what it accepts is consistent.

use dsm_config::{Config, Diagnostic};
use proptest::prelude::*;
use std::path::Path;

const PACKAGED: &str = include_str!("../../etc/mcomp.cfg");

/// A file that uses every key.
const FULL: &str = r#"name = "x"
k = "1MiB"
n = 2
[[server]]
address = "[fd00::1]:7411"
snapshot = "node1:7412"
public_key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
[[server]]
address = "node2:7411"
[security]
trusted_network = true
[log]
level = "debug"
operations = "writes"
directory = "/tmp"
[limits]
connections = 0x10
threads = 1
hello_timeout = "1s"
request_timeout = "1m 30s"
shutdown_timeout = "250ms"
buffer_memory = "1GiB"
[client]
timeout = "10ms"
"#;

fn check(text: &str) {
    let path = Path::new("m.cfg");
    match Config::parse(text, path) {
        Ok(config) => {
            assert_eq!(config.servers.len(), config.layout.server_count());
            for (server, address) in config.servers.iter().zip(config.layout.addresses()) {
                assert_eq!(server.address.to_string(), *address);
            }
        }
        Err(error) => {
            let dsm_config::ConfigError::Invalid {
                ref diagnostics, ..
            } = error
            else {
                panic!("{error}")
            };
            assert!(!diagnostics.is_empty());
            assert_eq!(
                error.to_string().lines().count(),
                diagnostics.len(),
                "{error}"
            );
            let lines = text.split('\n').count();
            for Diagnostic { place, .. } in diagnostics {
                assert!(
                    (1..=lines).contains(&place.line) && place.column >= 1,
                    "{place:?} of {lines} lines"
                );
            }
        }
    }
}

/// A valid file with one to three random edits, each of which deletes characters or inserts a word.
fn mutated() -> impl Strategy<Value = String> {
    let words = prop_oneof![
        Just(String::new()),
        "\\PC{0,4}",
        any::<i64>().prop_map(|number| number.to_string()),
        prop::sample::select(vec![
            "[", "]", "[[", "\"", "=", "\n", ".", ",", "{", "}", "#", "'''", "-", ":", "\\", "\0",
            "é"
        ])
        .prop_map(str::to_owned),
        prop::sample::select(FULL.split_whitespace().collect::<Vec<_>>()).prop_map(str::to_owned),
    ];
    let edit = (any::<prop::sample::Index>(), 0_usize..12, words);
    (
        prop::sample::select(vec![FULL, PACKAGED]),
        prop::collection::vec(edit, 1..4),
    )
        .prop_map(|(text, edits)| {
            let mut characters: Vec<char> = text.chars().collect();
            for (index, cut, word) in edits {
                let start = index.index(characters.len() + 1);
                let end = (start + cut).min(characters.len());
                characters.splice(start..end, word.chars());
            }
            characters.into_iter().collect()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_config_or_a_list_of_errors(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn any_toml_like_text_is_a_config_or_a_list_of_errors(text in "[kn=\\[\\].\"'#{},\n0-9a-e_ -]{0,200}") {
        check(&text);
    }

    #[test]
    fn a_damaged_file_is_a_config_or_a_list_of_errors(text in mutated()) {
        check(&text);
    }

    #[test]
    fn any_value_of_any_key_is_valid_or_an_error(line in 0_usize..22, value in prop_oneof![
        "\"\\PC*\"", any::<i128>().prop_map(|number| number.to_string()), any::<f64>().prop_map(|number| number.to_string()),
        "\"[0-9]{1,25} ?[a-zA-Z]{0,3}\"", "\"[a-z0-9.:\\[\\]-]{0,30}\"", Just("1979-05-27".to_owned()), Just("[{}]".to_owned()),
    ]) {
        let lines = FULL.lines().enumerate().map(|(index, text)| match text.split_once(" = ") {
            Some((key, _)) if index == line => format!("{key} = {value}\n"),
            _ => format!("{text}\n"),
        });
        check(&lines.collect::<String>());
    }
}

#[test]
fn the_files_that_are_mutated_are_valid() {
    for text in [FULL, PACKAGED] {
        assert!(Config::parse(text, Path::new("m.cfg")).is_ok());
    }
}

#[test]
fn deeply_nested_tables_are_an_error() {
    for text in [
        "[".repeat(100_000),
        format!("k = {}", "[".repeat(100_000)),
        format!("a{} = 1", ".a".repeat(100_000)),
    ] {
        check(&text);
    }
}
