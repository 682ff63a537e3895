//! The command `help`: `PROGRAM help COMMAND` means `PROGRAM COMMAND --help`.

use clap::{ArgAction, CommandFactory};
use std::ffi::{OsStr, OsString};

const HELP: &str = "help";

/// Replaces `help` in the position of the command by `--help` at the end of the line. In any other
/// position the word may be data, and stays. `T` describes the command line, whose first word is
/// the name of the program.
pub(crate) fn replace_help_command<T: CommandFactory>(
    line: impl IntoIterator<Item = OsString>,
) -> Vec<OsString> {
    let mut line: Vec<OsString> = line.into_iter().collect();
    if line.iter().any(|word| word == HELP) {
        let command = T::command();
        let mut found = false;
        while let Some(position) =
            position_of_command(&line, &command).filter(|position| line[*position] == HELP)
        {
            line.remove(position);
            found = true;
        }
        line.extend(found.then(|| "--help".into()));
    }
    line
}

/// The position of the first word that is neither an option nor the value of one.
fn position_of_command(line: &[OsString], command: &clap::Command) -> Option<usize> {
    let mut words = line.iter().enumerate().skip(1);
    while let Some((position, word)) = words.next() {
        if !word.as_encoded_bytes().starts_with(b"-") {
            return Some(position);
        }
        if takes_next(word, command) {
            words.next();
        }
    }
    None
}

/// Whether the option takes the next word as its value.
fn takes_next(option: &OsStr, command: &clap::Command) -> bool {
    let name = option.to_str().and_then(|option| option.strip_prefix("--"));
    let has_name = |argument: &&clap::Arg| name.is_some() && argument.get_long() == name;
    command
        .get_arguments()
        .find(has_name)
        .is_some_and(|argument| matches!(argument.get_action(), ArgAction::Set))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct SampleArguments {
        #[arg(long, global = true)]
        config: Option<String>,
        #[arg(long, global = true)]
        json: bool,
        words: Vec<String>,
    }

    #[test]
    fn help_is_replaced_only_in_the_position_of_the_command() {
        for (given, expected) in [
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
            let read =
                replace_help_command::<SampleArguments>(given.split(' ').map(OsString::from));
            assert_eq!(
                read,
                expected.split(' ').map(OsString::from).collect::<Vec<_>>()
            );
        }
        let read = SampleArguments::parse_from(replace_help_command::<SampleArguments>(
            ["x", "--config", "help", "a"].map(OsString::from),
        ));
        assert_eq!(
            (read.config.as_deref(), read.json, read.words),
            (Some("help"), false, vec!["a".to_owned()])
        );
    }
}
