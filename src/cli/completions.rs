//! `dsmctl completions`: completion scripts for the command lines of the programs. `clap_complete`
//! generates them; this module adds the completion of arguments for bash, and corrects options with
//! two values for zsh.

use super::failure::CliFailure;
use super::output;
use clap::builder::ValueRange;
use clap::{Arg, Command, ValueEnum, ValueHint};
use clap_complete::Shell;

/// The addition to the script for bash. [`bash_arguments`] replaces the words in capitals.
const BASH: &str = include_str!("completions.bash");

/// A program whose command line can be completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum CompletionProgram {
    Dsmctl,
    Dsmd,
    DsmSnapshot,
}

impl CompletionProgram {
    fn command(self) -> Command {
        match self {
            Self::Dsmctl => super::command(),
            Self::Dsmd => crate::server::command(),
            Self::DsmSnapshot => crate::agent::command(),
        }
    }
}

pub(super) fn run(shell: Shell, program: CompletionProgram) -> Result<(), CliFailure> {
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

/// Removes the `=` after options with two values from the script for zsh: clap refuses a second
/// value after `--range=0`.
fn without_equals_signs(script: String, command: &Command) -> String {
    let mut names = Vec::new();
    for_each_command(command, command.get_name(), &mut |_, command| {
        names.extend(options(command, takes_more));
    });
    names.iter().fold(script, |script, name| {
        script.replace(&format!("'{name}=["), &format!("'{name}["))
    })
}

/// The addition to the script for bash; empty for a program without positional arguments.
fn bash_arguments(command: &Command) -> String {
    let program = command.get_name();
    let (mut commands, mut with_value, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut snapshots, mut files, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
    for_each_command(command, program, &mut |words, command| {
        commands.push(words.to_owned());
        with_value.extend(options(command, |_| true));
        pairs.extend(options(command, takes_more));
        // The generated script already completes an argument that has a fixed set of values.
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

/// Whether an option takes more than one value.
fn takes_more(values: ValueRange) -> bool {
    values.max_values() > 1
}

/// Calls `visit` with each command and the words that select it.
fn for_each_command(command: &Command, words: &str, visit: &mut impl FnMut(&str, &Command)) {
    visit(words, command);
    for below in command.get_subcommands() {
        for_each_command(below, &format!("{words} {}", below.get_name()), visit);
    }
}

/// The options of `command` that take a number of values which `values` accepts.
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

/// A pattern of a bash `case` that matches each of the texts; without texts, it matches no word.
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
