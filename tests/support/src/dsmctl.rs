//! Runs dsmctl with a command line, as a user types it.

use std::path::Path;

/// The exit code and the output of a program that has ended.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

/// Runs dsmctl in `folder` with the words of `line` as arguments and `input` as standard input.
pub fn run(folder: &Path, config: &Path, line: &str, input: &[u8]) -> Run {
    let mut command = assert_cmd::Command::cargo_bin("dsmctl").unwrap();
    command.current_dir(folder).env("DSM_CONFIG", config);
    Run::of(command.args(line.split_whitespace()).write_stdin(input))
}

impl Run {
    /// Runs the command to its end.
    pub fn of(command: &mut assert_cmd::Command) -> Self {
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        Self {
            code: output.status.code().unwrap(),
            stdout: output.stdout,
            stderr,
        }
    }

    /// Standard output, as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// Checks that it succeeded with an empty stderr, and returns its standard output.
    #[track_caller]
    pub fn prints(&self) -> &str {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""));
        self.text()
    }

    /// The JSON of its standard output, which is one line.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.text().lines().count(), 1, "{}", self.text());
        serde_json::from_str(self.text()).unwrap()
    }

    /// Checks that it failed with this exit code, and that its stderr has each of `words`.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{}", self.stderr);
        for words in words {
            assert!(
                self.stderr.contains(words),
                "no {words:?} in {}",
                self.stderr
            );
        }
    }
}
