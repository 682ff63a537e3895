//! dsm-snapshot(8), the command line of dsm-snapshot and the units that run it agree.

// clippy.toml allows `unwrap` in tests, but not in their helpers.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::process::Command;

const PAGE: &str = include_str!("../../man/dsm-snapshot.8");

const TIMER: &str = include_str!("../../packaging/systemd/dsm-snapshot.timer");

/// The long options of dsm-snapshot and of its commands, with `help` and `version`.
fn offered() -> BTreeSet<String> {
    let mut command = dsm_service::agent::command();
    command.build();
    let all = command.get_arguments().chain(
        command
            .get_subcommands()
            .flat_map(clap::Command::get_arguments),
    );
    all.filter_map(|argument| argument.get_long())
        .map(str::to_owned)
        .collect()
}

/// The lines of the section with this title.
fn section(title: &str) -> Vec<&'static str> {
    let heading = format!(".Sh {title}");
    let lines = PAGE.lines().skip_while(|line| *line != heading).skip(1);
    lines.take_while(|line| !line.starts_with(".Sh ")).collect()
}

/// The words after each `Fl Fl`.
fn options(lines: &[&str]) -> BTreeSet<String> {
    let options = lines.iter().flat_map(|line| line.split("Fl Fl ").skip(1));
    options
        .filter_map(|rest| rest.split(' ').next())
        .map(str::to_owned)
        .collect()
}

/// The lines that begin with `start`.
fn beginning<'a>(lines: &[&'a str], start: &str) -> Vec<&'a str> {
    lines
        .iter()
        .copied()
        .filter(|line| line.starts_with(start))
        .collect()
}

#[test]
fn every_option_has_an_entry_in_the_man_page_and_every_entry_is_an_option() {
    assert_eq!(options(&beginning(&section("OPTIONS"), ".It ")), offered());
}

#[test]
fn every_command_is_in_the_synopsis_with_its_options() {
    let synopsis = section("SYNOPSIS").join("\n");
    let calls: Vec<&str> = synopsis.split(".Nm dsm-snapshot\n").skip(1).collect();
    for command in dsm_service::agent::command().get_subcommands() {
        let name = format!(".Cm {}\n", command.get_name());
        let call = calls
            .iter()
            .find(|call| format!("{call}\n").contains(&name))
            .unwrap();
        let own: BTreeSet<String> = command
            .get_opts()
            .filter_map(|option| option.get_long())
            .map(str::to_owned)
            .collect();
        let shown = options(&call.lines().collect::<Vec<_>>());
        let everywhere = ["config", "index", "log-level"].map(str::to_owned).into();
        assert_eq!(shown, own.union(&everywhere).cloned().collect(), "{name}");
    }
}

/// The exit code of the program with a configuration whose agent cannot be reached.
fn code(arguments: &[&str]) -> i32 {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("mcomp.cfg");
    // Only root can listen on port 2, and no service does.
    std::fs::write(
        &config,
        "k = 4096\nn = 1\nserver = [{ address = \"127.0.0.1:1\", snapshot = \"127.0.0.1:2\" }]\n",
    )
    .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dsm-snapshot"));
    command
        .env("DSM_CONFIG", &config)
        .env_remove("NOTIFY_SOCKET")
        .args(arguments);
    command.output().unwrap().status.code().unwrap()
}

#[test]
fn the_program_ends_with_the_exit_codes_of_the_man_page() {
    let listed: BTreeSet<i32> = section("EXIT STATUS")
        .iter()
        .filter_map(|line| line.strip_prefix(".It ")?.parse().ok())
        .collect();
    let seen = [
        (0, vec!["--help"]),
        (0, vec!["create", "--help"]),
        (0, vec!["help"]),
        (0, vec!["help", "create"]),
        (64, vec!["help", "nonsense"]),
        (64, vec![]),
        (64, vec!["--index", "1", "create"]),
        (69, vec!["create"]),
        (78, vec!["--config", "/nonexistent/mcomp.cfg", "agent"]),
    ];
    for (expected, arguments) in seen {
        assert_eq!(code(&arguments), expected, "{arguments:?}");
        assert!(
            listed.contains(&expected),
            "{expected} is not in dsm-snapshot(8)"
        );
    }
}

#[test]
fn the_man_page_shows_the_settings_of_the_timer() {
    let settings = TIMER
        .split("[Timer]\n")
        .nth(1)
        .unwrap()
        .split("\n\n")
        .next()
        .unwrap();
    let shown: Vec<&str> = section("THE TIMER")
        .iter()
        .filter_map(|line| line.strip_prefix(".It Li "))
        .collect();
    let set: Vec<&str> = settings
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert_eq!(shown, set);
}
