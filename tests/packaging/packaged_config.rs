//! The packaged etc/mcomp.cfg works unchanged, and documents every key with its default.

use dsm_config::{Config, Origin, keys};
use std::path::Path;

const PACKAGED: &str = include_str!("../../etc/mcomp.cfg");

fn parse(text: &str) -> Config {
    Config::parse(text, Path::new("etc/mcomp.cfg")).unwrap_or_else(|error| panic!("{error}"))
}

/// The file with every `#key = value` uncommented.
fn uncommented() -> String {
    let line = |line: &'static str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest,
        _ => line,
    };
    PACKAGED.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_packaged_file_is_one_server_that_only_this_machine_reaches() {
    let config = parse(PACKAGED);
    assert_eq!(
        (config.layout.server_count(), config.layout.share_size()),
        (1, 32 << 20)
    );
    assert_eq!(config.layout.addresses(), ["127.0.0.1:7411"]);
    assert!(config.untrusted_address(0).is_none());
    assert!(!config.security.trusted_network);
}

#[test]
fn the_packaged_file_documents_every_key_with_its_default() {
    let (packaged, all) = (parse(PACKAGED).settings(), parse(&uncommented()).settings());
    for key in keys() {
        let Some(default) = key.default else { continue };
        let find = |settings: &[dsm_config::Setting]| {
            settings
                .iter()
                .find(|setting| setting.key == key.name)
                .cloned()
        };
        let (packaged, documented) = (find(&packaged).unwrap(), find(&all).unwrap());
        assert_eq!(
            packaged.origin,
            Origin::Default,
            "{} is set in the packaged file",
            key.name
        );
        assert!(
            matches!(documented.origin, Origin::Line(_)),
            "{} is not in the packaged file",
            key.name
        );
        assert_eq!(documented.value, default, "{}", key.name);
    }
}

#[test]
fn the_example_of_three_machines_in_the_packaged_file_is_valid() {
    let example = PACKAGED
        .lines()
        .filter_map(|line| line.strip_prefix("#   "))
        .filter(|line| {
            ["[[server]]", "address = "]
                .iter()
                .any(|start| line.starts_with(start))
        });
    let example = example.collect::<Vec<_>>().join("\n");
    assert_eq!(
        parse(&format!("k = 4096\nn = 3\n{example}"))
            .layout
            .server_count(),
        3
    );
}

#[test]
fn the_packaged_memory_fits_the_shared_memory_of_a_container_and_leaves_a_quarter_for_snapshots() {
    let k = parse(PACKAGED).layout.share_size();
    assert!(
        k + dsm_core::segment::overhead(k) <= (64 << 20) / 4 * 3,
        "{k}"
    );
}

/// The text files of a folder.
fn texts(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let read = |entry: std::fs::DirEntry| {
        Some((
            entry.path().display().to_string(),
            std::fs::read_to_string(entry.path()).ok()?,
        ))
    };
    std::fs::read_dir(folder)
        .expect("the folder")
        .flatten()
        .filter_map(read)
        .collect()
}

#[test]
fn every_document_that_a_man_page_or_the_packaged_file_names_is_in_that_package() {
    const INSTALLED: &str = "/usr/share/doc/";
    let mut named = 0;
    for (file, text) in texts("man").into_iter().chain(texts("etc")) {
        for rest in text.split(INSTALLED).skip(1) {
            let path = rest
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .trim_end_matches('.');
            let (package, document) = path
                .split_once('/')
                .unwrap_or_else(|| panic!("{file} names {path}"));
            let list = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(format!("packaging/debian/{package}.docs"));
            let list = std::fs::read_to_string(&list)
                .unwrap_or_else(|error| panic!("{}: {error}", list.display()));
            let is_in = list
                .lines()
                .any(|line| line.ends_with(&format!("/{document}")));
            assert!(
                is_in,
                "{file} names {INSTALLED}{path}, which is not in the package"
            );
            named += 1;
        }
    }
    assert!(named >= 3, "{named} documents are named");
    // The author of a client needs the protocol, but not dsmd on the same machine.
    let of_client = include_str!("../../packaging/debian/dsmctl.docs");
    assert!(
        of_client.lines().any(|line| line == "docs/protocol.md"),
        "{of_client}"
    );
}
