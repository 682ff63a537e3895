//! man/dsmctl.1 and man/dsmctl-snapshot.1 match the command line: every command, argument and
//! option has an entry, and every entry has a command, argument or option.

#![allow(clippy::unwrap_used)] // The lint exempts test functions, but not their helpers.

use clap::{Arg, Command};
use std::collections::{BTreeMap, BTreeSet};
use support::skip;

/// A manual page, and the command that it describes; empty for the whole program.
struct ManPage {
    name: &'static str,
    text: &'static str,
    about: &'static str,
}

const PAGE: ManPage = ManPage {
    name: "man/dsmctl.1",
    text: include_str!("../../man/dsmctl.1"),
    about: "",
};

/// The page of the commands below `snapshot`, which the other page only names.
const SNAPSHOT: ManPage = ManPage {
    name: "man/dsmctl-snapshot.1",
    text: include_str!("../../man/dsmctl-snapshot.1"),
    about: "snapshot",
};

/// The lines of each `.Sh` and `.Ss` section, by title.
fn sections(page: &ManPage) -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut sections = BTreeMap::new();
    let mut lines = &mut Vec::new();
    for line in page.text.lines() {
        match line
            .strip_prefix(".Sh ")
            .or_else(|| line.strip_prefix(".Ss "))
        {
            Some(title) => lines = sections.entry(title).or_default(),
            None => lines.push(line),
        }
    }
    sections
}

/// The options that have an entry: `.It Fl o , -output Ar file` describes `-o` and `--output`.
fn described(lines: &[&str]) -> BTreeSet<String> {
    let entries = lines.iter().filter_map(|line| line.strip_prefix(".It Fl "));
    let words = entries.flat_map(|entry| entry.split(" Ar ").next().unwrap().split(" , "));
    words.map(|word| format!("-{word}")).collect()
}

fn options(arguments: &[&Arg]) -> BTreeSet<String> {
    let long = arguments
        .iter()
        .filter_map(|argument| argument.get_long())
        .map(|name| format!("--{name}"));
    let short = arguments
        .iter()
        .filter_map(|argument| argument.get_short())
        .map(|name| format!("-{name}"));
    long.chain(short).collect()
}

fn is_on_every_command(argument: &Arg) -> bool {
    argument.is_global_set() || matches!(argument.get_id().as_str(), "help" | "version")
}

/// Calls `check` with each command that has no subcommands, and the words that select it.
fn each_command(command: &Command, words: &str, check: &mut impl FnMut(&str, &Command)) {
    if !command.has_subcommands() {
        check(words.trim(), command);
    }
    for below in command.get_subcommands() {
        each_command(below, &format!("{words} {}", below.get_name()), check);
    }
}

fn command() -> Command {
    let mut command = dsm_service::cli::command();
    // Adds the arguments that clap generates: help, version, and the global options of subcommands.
    command.build();
    command
}

/// Checks that the subcommands of `command` and the sections of their page match.
fn check(page: &ManPage, command: &Command) {
    let sections = sections(page);
    let mut commands = BTreeSet::new();
    each_command(command, "", &mut |words, command| {
        let lines = sections
            .get(words)
            .unwrap_or_else(|| panic!("{} has no section \".Ss {words}\"", page.name));
        let own: Vec<&Arg> = command
            .get_arguments()
            .filter(|argument| !is_on_every_command(argument))
            .collect();
        assert_eq!(
            options(&own),
            described(lines),
            "options of {words}, in the command line and in {}",
            page.name
        );
        let synopsis = synopsis(lines);
        for argument in own.iter().filter(|argument| argument.is_positional()) {
            let name = argument.get_id().as_str();
            let found = synopsis.split_whitespace().any(|word| word == name);
            assert!(found, "{words}: no argument {name} in its synopsis");
        }
        for value in own
            .iter()
            .flat_map(|argument| argument.get_possible_values())
        {
            let name = value.get_name().to_owned();
            let found = lines
                .iter()
                .any(|line| line.split([' ', ',']).any(|word| word == name));
            assert!(found, "{words}: the value {name} is not in {}", page.name);
        }
        let called = format!("Cm {} {words}", page.about).replace("  ", " ");
        assert!(
            synopsis.contains(&called),
            "{words}: no {called:?} in its synopsis"
        );
        commands.insert(words.to_owned());
    });
    let begin = page.text.find(".Sh COMMANDS").unwrap();
    let end = begin + 1 + page.text[begin + 1..].find(".Sh ").unwrap();
    let documented = page.text[begin..end]
        .lines()
        .filter_map(|line| line.strip_prefix(".Ss "))
        .map(str::to_owned);
    assert_eq!(
        commands,
        documented.collect(),
        "the commands of dsmctl and those in {}",
        page.name
    );
}

/// The lines with the synopsis of a command; a `\` at the end of a line joins it with the next.
fn synopsis(lines: &[&str]) -> String {
    let text = lines.join("\n").replace("\\\n", "");
    text.lines()
        .filter(|line| line.starts_with(".D1 Nm"))
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn every_command_has_a_section_with_its_arguments_and_options() {
    let shortened = command().mut_subcommand(SNAPSHOT.about, |_| {
        Command::new(SNAPSHOT.about).args([Arg::new("command"), Arg::new("argument")])
    });
    check(&PAGE, &shortened);
    check(
        &SNAPSHOT,
        command().find_subcommand(SNAPSHOT.about).unwrap(),
    );
}

#[test]
fn the_synopsis_has_every_command_of_snapshot_with_its_options() {
    let lines = sections(&SNAPSHOT)["SYNOPSIS"].join("\n");
    let calls: BTreeMap<&str, &str> = lines
        .split(".Nm dsmctl Cm snapshot ")
        .skip(1)
        .filter_map(|call| call.split_once('\n'))
        .collect();
    each_command(
        command().find_subcommand(SNAPSHOT.about).unwrap(),
        "",
        &mut |words, command| {
            let call = calls
                .get(words)
                .unwrap_or_else(|| panic!("no {words} in the synopsis"));
            for option in command
                .get_opts()
                .filter(|option| !is_on_every_command(option))
            {
                let long = option.get_long().map(|name| format!("Fl -{name}"));
                let short = option.get_short().map(|name| format!("Fl {name} "));
                let found = long
                    .into_iter()
                    .chain(short)
                    .any(|name| call.contains(&name));
                assert!(found, "no {} in the synopsis of {words}", option.get_id());
            }
        },
    );
}

#[test]
fn every_global_option_has_an_entry() {
    let command = command();
    let global: Vec<&Arg> = command.get_arguments().collect();
    assert!(global.iter().all(|argument| is_on_every_command(argument)));
    assert_eq!(options(&global), described(&sections(&PAGE)["OPTIONS"]));
}

#[test]
fn the_pages_are_clean_mdoc() {
    let pages = [PAGE.name, SNAPSHOT.name];
    let Ok(lint) = std::process::Command::new("mandoc")
        .args(["-Tlint", "-Wstyle"])
        .args(pages)
        .output()
    else {
        return skip::skip("mandoc is not installed here");
    };
    let messages = String::from_utf8_lossy(&lint.stdout).into_owned();
    // The pages that these refer to need not be installed where this test runs.
    let warnings: Vec<&str> = messages
        .lines()
        .filter(|line| !line.contains("referenced manual not found"))
        .collect();
    assert_eq!(warnings, [""; 0]);
}
