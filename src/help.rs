//! `PROGRAM help COMMAND`, as many programs have it: the same as `PROGRAM COMMAND --help`.

use clap::{ArgAction, CommandFactory};
use std::ffi::{OsStr, OsString};

const HELP: &str = "help";

/// A command line of the program whose arguments are `T`, in which `help` in place of the command
/// has become a `--help` at the end. Only there: further on the word may be data. The first word is
/// the program's name.
pub(crate) fn with_option<T: CommandFactory>(
    line: impl IntoIterator<Item = OsString>,
) -> Vec<OsString> {
    let mut line: Vec<OsString> = line.into_iter().collect();
    if line.iter().any(|word| word == HELP) {
        let command = T::command();
        let mut found = false;
        while let Some(place) =
            place_of_command(&line, &command).filter(|place| line[*place] == HELP)
        {
            line.remove(place);
            found = true;
        }
        line.extend(found.then(|| "--help".into()));
    }
    line
}

/// The first word that is neither an option nor the value of one.
fn place_of_command(line: &[OsString], command: &clap::Command) -> Option<usize> {
    let mut words = line.iter().enumerate().skip(1);
    while let Some((place, word)) = words.next() {
        if !word.as_encoded_bytes().starts_with(b"-") {
            return Some(place);
        }
        if takes_next(word, command) {
            words.next();
        }
    }
    None
}

/// Whether the word after this option is its value.
fn takes_next(option: &OsStr, command: &clap::Command) -> bool {
    let name = option.to_str().and_then(|option| option.strip_prefix("--"));
    let is_meant = |argument: &&clap::Arg| name.is_some() && argument.get_long() == name;
    command
        .get_arguments()
        .find(is_meant)
        .is_some_and(|argument| matches!(argument.get_action(), ArgAction::Set))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Arguments {
        #[arg(long, global = true)]
        config: Option<String>,
        #[arg(long, global = true)]
        json: bool,
        words: Vec<String>,
    }

    #[test]
    fn only_in_place_of_the_command_help_is_a_call_for_it() {
        for (given, meant) in [
            ("dsmctl", "dsmctl"),
            ("dsmctl help", "dsmctl --help"),
            ("dsmctl help help", "dsmctl --help"),
            (
                "dsmctl help snapshot create",
                "dsmctl snapshot create --help",
            ),
            (
                "dsmctl --json --config help help read",
                "dsmctl --json --config help read --help",
            ),
            (
                "dsmctl --config=help help read",
                "dsmctl --config=help read --help",
            ),
            ("dsmctl --config help", "dsmctl --config help"),
            ("dsmctl write 0 help", "dsmctl write 0 help"),
            ("dsmctl helper", "dsmctl helper"),
        ] {
            let read = with_option::<Arguments>(given.split(' ').map(OsString::from));
            assert_eq!(
                read,
                meant.split(' ').map(OsString::from).collect::<Vec<_>>()
            );
        }
        let read = Arguments::parse_from(with_option::<Arguments>(
            ["x", "--config", "help", "a"].map(OsString::from),
        ));
        assert_eq!(
            (read.config.as_deref(), read.json, read.words),
            (Some("help"), false, vec!["a".to_owned()])
        );
    }
}
