//! man/dsmctl.1 and the command line say the same: every command, argument and option has its entry, and no entry is
//! of something that is not there.

#![allow(clippy::unwrap_used)] // helpers of tests, which the lint's exception for tests does not cover

use clap::{Arg, Command};
use std::collections::{BTreeMap, BTreeSet};

const PAGE: &str = include_str!("../man/dsmctl.1");

/// The lines of each `.Sh` and `.Ss`, by its title.
fn sections() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut sections = BTreeMap::new();
    let mut lines = &mut Vec::new();
    for line in PAGE.lines() {
        match line.strip_prefix(".Sh ").or_else(|| line.strip_prefix(".Ss ")) {
            Some(title) => lines = sections.entry(title).or_default(),
            None => lines.push(line),
        }
    }
    sections
}

/// The options that have an entry of their own: `.It Fl o , -output Ar file` has `-o` and `--output`.
fn described(lines: &[&str]) -> BTreeSet<String> {
    let entries = lines.iter().filter_map(|line| line.strip_prefix(".It Fl "));
    let words = entries.flat_map(|entry| entry.split(" Ar ").next().unwrap().split(" , "));
    words.map(|word| format!("-{word}")).collect()
}

fn options(arguments: &[&Arg]) -> BTreeSet<String> {
    let long = arguments.iter().filter_map(|argument| argument.get_long()).map(|name| format!("--{name}"));
    let short = arguments.iter().filter_map(|argument| argument.get_short()).map(|name| format!("-{name}"));
    long.chain(short).collect()
}

fn everywhere(argument: &Arg) -> bool {
    argument.is_global_set() || matches!(argument.get_id().as_str(), "help" | "version")
}

/// Calls `check` with each command that has no further ones below it, and the words that call it.
fn each_command(command: &Command, words: &str, check: &mut impl FnMut(&str, &Command)) {
    if !command.has_subcommands() {
        check(words.trim(), command);
    }
    for below in command.get_subcommands() {
        each_command(below, &format!("{words} {}", below.get_name()), check);
    }
}

fn command() -> Command {
    let mut command = dsm::cli::command();
    // Adds what clap supplies: help, version, and global options below.
    command.build();
    command
}

#[test]
fn every_command_has_a_section_with_its_arguments_and_options() {
    let sections = sections();
    let mut commands = BTreeSet::new();
    each_command(&command(), "", &mut |words, command| {
        let lines = sections.get(words).unwrap_or_else(|| panic!("man/dsmctl.1 has no section \".Ss {words}\""));
        let own: Vec<&Arg> = command.get_arguments().filter(|argument| !everywhere(argument)).collect();
        assert_eq!(options(&own), described(lines), "options of {words}, in the command line and in man/dsmctl.1");
        let synopsis: Vec<&&str> = lines.iter().filter(|line| line.starts_with(".D1 Nm")).collect();
        for name in own.iter().filter(|argument| argument.is_positional()).map(|argument| argument.get_id()) {
            let macro_call = format!("Ar {name}");
            assert!(synopsis.iter().any(|line| line.contains(&macro_call)), "{words}: no {macro_call} in its synopsis");
        }
        for value in own.iter().flat_map(|argument| argument.get_possible_values()) {
            let name = value.get_name().to_owned();
            let found = lines.iter().any(|line| line.split([' ', ',']).any(|word| word == name));
            assert!(found, "{words}: the value {name} is not in man/dsmctl.1");
        }
        commands.insert(words.to_owned());
    });
    let begin = PAGE.find(".Sh COMMANDS").unwrap();
    let end = begin + PAGE[begin..].find(".Sh ENVIRONMENT").unwrap();
    let documented = PAGE[begin..end].lines().filter_map(|line| line.strip_prefix(".Ss ")).map(str::to_owned);
    assert_eq!(commands, documented.collect());
}

#[test]
fn every_global_option_has_an_entry() {
    let command = command();
    let global: Vec<&Arg> = command.get_arguments().collect();
    assert!(global.iter().all(|argument| everywhere(argument)));
    assert_eq!(options(&global), described(&sections()["OPTIONS"]));
}

#[test]
fn the_page_is_clean_mdoc() {
    let Ok(lint) = std::process::Command::new("mandoc").args(["-Tlint", "-Wstyle", "man/dsmctl.1"]).output() else {
        // mandoc is not installed here; `make test` says so.
        return;
    };
    let messages = String::from_utf8_lossy(&lint.stdout).into_owned();
    // The other pages are not installed where this runs.
    let complaints: Vec<&str> = messages.lines().filter(|line| !line.contains("referenced manual not found")).collect();
    assert_eq!(complaints, [""; 0]);
}
