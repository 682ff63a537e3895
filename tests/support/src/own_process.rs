//! Runs the binary of a test again for one of its tests.
//!
//! The tests of a target share a process. A test runs in a separate process if it is killed, if it
//! changes process-wide state (limits, signals, crash points), or if it needs another user or
//! namespace.

use std::process::Command;

/// The variable that is set in a process that [`entered`] has started.
const INSIDE: &str = "DSM_TEST_OWN_PROCESS";

/// The arguments that make the binary of a test run only `test` of the module `module`, which is
/// its `module_path!()`.
pub fn arguments(module: &str, test: &str) -> [String; 3] {
    // `module_path!()` begins with the target's name, the name of a test does not.
    let name = module.split_once("::").map_or_else(
        || test.to_owned(),
        |(_, module)| format!("{module}::{test}"),
    );
    ["--exact".to_owned(), name, "--nocapture".to_owned()]
}

/// A command that runs only one test of this binary; see [`arguments`].
pub fn command(module: &str, test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("the binary of this test"));
    command.args(arguments(module, test));
    command
}

/// Returns true in the separate process of a test. Elsewhere starts that process, waits for it and
/// returns false.
///
/// # Panics
/// When the test fails in the separate process.
#[track_caller]
pub fn entered(module: &str, test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    passes(command(module, test).env(INSIDE, "1"), test);
    false
}

/// Runs a test by a [`command`].
///
/// # Panics
/// When the test fails there.
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
