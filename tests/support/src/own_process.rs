//! The binary of a test, run again for one of its tests alone.
//!
//! The tests of a target share a process. One that is killed, that changes what all of a process
//! share (limits, signals, crash points), or that belongs to another user or namespace, runs in a
//! separate process.

use std::process::Command;

/// Set where [`entered`] has started the process.
const INSIDE: &str = "DSM_TEST_OWN_PROCESS";

/// The arguments by which the binary of a test runs one test alone: its name, and the
/// `module_path!()` of where it stands.
pub fn arguments(module: &str, test: &str) -> [String; 3] {
    // The names of tests do not begin with that of their target.
    let name = module.split_once("::").map_or_else(
        || test.to_owned(),
        |(_, module)| format!("{module}::{test}"),
    );
    ["--exact".to_owned(), name, "--nocapture".to_owned()]
}

/// A command that runs one test of this binary alone; see [`arguments`].
pub fn command(module: &str, test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the binary of this test"));
    command.args(arguments(module, test));
    command
}

/// True in a separate process. Elsewhere it starts one for the test, and fails if the test fails
/// there.
#[track_caller]
pub fn entered(module: &str, test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    passes(command(module, test).env(INSIDE, "1"), test);
    false
}

/// Runs a test in the process of a [`command`], and fails if the test fails there.
#[track_caller]
pub fn passes(command: &mut Command, test: &str) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{test} failed in a separate process"
    );
}
