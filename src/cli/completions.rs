//! `dsmctl completions`: what a shell needs to complete the command lines of the programs.
//! `clap_complete` writes it from their descriptions; here stands what its scripts leave to be
//! wished for.

use super::failure::Failure;
use super::output;
use clap::builder::ValueRange;
use clap::{Arg, Command, ValueEnum, ValueHint};
use clap_complete::Shell;

/// What is added to the script for bash. Words in capitals stand for what [`bash_arguments`] finds.
const BASH: &str = include_str!("completions.bash");

/// A program whose command line can be completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Program {
    Dsmctl,
    Dsmd,
    DsmSnapshot,
}

impl Program {
    fn command(self) -> Command {
        match self {
            Self::Dsmctl => super::command(),
            Self::Dsmd => crate::server::command(),
            Self::DsmSnapshot => crate::agent::command(),
        }
    }
}

pub(super) fn run(shell: Shell, program: Program) -> Result<(), Failure> {
    output::print(&script(shell, program.command()))
}

fn script(shell: Shell, mut command: Command) -> String {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => script + &bash_arguments(&command),
        Shell::Zsh => without_equals_signs(script, &command),
        _ => script,
    }
}

/// In zsh `--range=[` offers the option with `=`, after which clap takes one value and no second
/// one.
fn without_equals_signs(script: String, command: &Command) -> String {
    let mut names = Vec::new();
    each(command, command.get_name(), &mut |_, command| {
        names.extend(options(command, takes_more))
    });
    names.iter().fold(script, |script, name| {
        script.replace(&format!("'{name}=["), &format!("'{name}["))
    })
}

/// The addition to the script for bash; empty for a program that takes no arguments.
fn bash_arguments(command: &Command) -> String {
    let program = command.get_name();
    let (mut commands, mut with_value, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut snapshots, mut files, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
    each(command, program, &mut |words, command| {
        commands.push(words.to_owned());
        with_value.extend(options(command, |_| true));
        pairs.extend(options(command, takes_more));
        // The script does offer the values of an argument that has only these.
        let first = command
            .get_positionals()
            .next()
            .filter(|first| first.get_possible_values().is_empty());
        let list = match first.map(Arg::get_value_hint) {
            Some(ValueHint::FilePath) if words.starts_with("dsmctl snapshot ") => &mut snapshots,
            Some(ValueHint::FilePath) => &mut files,
            Some(_) => &mut numbers,
            None => return,
        };
        list.push(words.to_owned());
    });
    if snapshots.is_empty() && files.is_empty() && numbers.is_empty() {
        return String::new();
    }
    let lists = [
        ("OPTIONS", with_value),
        ("COMMANDS", commands),
        ("PAIRS", pairs),
        ("SNAPSHOTS", snapshots),
        ("FILES", files),
        ("NUMBERS", numbers),
    ];
    let script = BASH.replace("PROGRAM", program);
    lists.into_iter().fold(script, |script, (name, texts)| {
        script.replace(name, &pattern(texts))
    })
}

fn takes_more(values: ValueRange) -> bool {
    values.max_values() > 1
}

/// Calls `visit` with each command, and the words that call it.
fn each(command: &Command, words: &str, visit: &mut impl FnMut(&str, &Command)) {
    visit(words, command);
    for below in command.get_subcommands() {
        each(below, &format!("{words} {}", below.get_name()), visit);
    }
}

/// The options of a command that take a value, or such numbers of values.
fn options(command: &Command, values: impl Fn(ValueRange) -> bool) -> Vec<String> {
    let wanted = |option: &&Arg| {
        option.get_action().takes_values() && option.get_num_args().is_some_and(&values)
    };
    let names = |option: &Arg| {
        let (long, short) = (option.get_long(), option.get_short());
        let (long, short) = (
            long.map(|name| format!("--{name}")),
            short.map(|name| format!("-{name}")),
        );
        long.into_iter().chain(short).collect::<Vec<_>>()
    };
    command.get_opts().filter(wanted).flat_map(names).collect()
}

/// A pattern of bash's `case` for any of the texts; without any, one that no word is.
fn pattern(mut texts: Vec<String>) -> String {
    texts.sort();
    texts.dedup();
    if texts.is_empty() {
        "''".to_owned()
    } else {
        texts
            .iter()
            .map(|text| format!("'{text}'"))
            .collect::<Vec<_>>()
            .join(" | ")
    }
}
