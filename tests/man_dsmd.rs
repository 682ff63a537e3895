//! dsmd(8) and the command line of dsmd agree.

#![allow(clippy::unwrap_used)] // helpers of tests, which the lint's exception for tests does not cover

use std::collections::BTreeSet;
use std::process::Command;

const PAGE: &str = include_str!("../man/dsmd.8");

/// The long options that `dsmd --help` describes.
fn offered() -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_dsmd")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let option = |line: &str| {
        let line = line.trim_start();
        let long = line.starts_with('-').then(|| line.find("--")).flatten()?;
        let name: String = line[long + 2..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        (!name.is_empty()).then_some(name)
    };
    let options: BTreeSet<_> = help.lines().filter_map(option).collect();
    assert!(options.contains("config"), "no options in the help: {help}");
    options
}

/// The words after each `Fl Fl` of the lines that begin with `start`.
fn options_of_lines(start: &str) -> BTreeSet<String> {
    let lines = PAGE.lines().filter(|line| line.starts_with(start));
    lines
        .flat_map(|line| line.split("Fl Fl ").skip(1))
        .filter_map(|rest| rest.split(' ').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_option_has_an_entry_in_the_man_page_and_every_entry_is_an_option() {
    assert_eq!(options_of_lines(".It "), offered());
}

#[test]
fn every_option_stands_in_the_synopsis() {
    let synopsis: BTreeSet<_> = options_of_lines(".Op ").union(&options_of_lines(".Fl ")).cloned().collect();
    let missing: Vec<_> = offered().difference(&synopsis).cloned().collect();
    assert!(missing.is_empty(), "not in the synopsis of dsmd(8): {missing:?}");
}
