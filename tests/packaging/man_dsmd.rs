//! dsmd(8) and the command line of dsmd agree.

use std::collections::BTreeSet;

const PAGE: &str = include_str!("../../man/dsmd.8");

/// The long options of dsmd, with `help` and `version`.
fn offered() -> BTreeSet<String> {
    let mut command = dsm_service::server::command();
    command.build();
    command
        .get_arguments()
        .filter_map(|argument| argument.get_long())
        .map(str::to_owned)
        .collect()
}

/// The words after each `Fl Fl` of the lines that begin with `start`.
fn options_of_lines(start: &str) -> BTreeSet<String> {
    let lines = PAGE.lines().filter(|line| line.starts_with(start));
    let options = lines.flat_map(|line| line.split("Fl Fl ").skip(1));
    options
        .filter_map(|rest| rest.split(' ').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_option_has_an_entry_in_the_man_page_and_every_entry_is_an_option() {
    assert_eq!(options_of_lines(".It "), offered());
}

#[test]
fn every_option_is_in_the_synopsis() {
    let synopsis: BTreeSet<_> = options_of_lines(".Op ")
        .union(&options_of_lines(".Fl "))
        .cloned()
        .collect();
    let missing: Vec<_> = offered().difference(&synopsis).cloned().collect();
    assert!(
        missing.is_empty(),
        "not in the synopsis of dsmd(8): {missing:?}"
    );
}

#[test]
fn dsmd_help_prints_the_same_as_dsmd_with_the_option() {
    let run = |word: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dsmd"));
        let output = command.arg(word).output().unwrap();
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{word}: {output:?}"
        );
        output.stdout
    };
    assert_eq!(run("help"), run("--help"));
}
