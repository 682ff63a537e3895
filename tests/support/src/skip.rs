//! Reports tests that cannot run on this machine. Cargo hides the output of a test that passes, so
//! `make test` gives a file for the reasons.

use std::fmt::Display;
use std::io::Write;

/// The variable with the path of the file whose lines `make test` prints in its summary.
const FILE: &str = "DSM_TEST_SKIPS";

/// Records why this test, or a part of it, does not run on this machine.
pub fn skip(reason: impl Display) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}", thread.name().unwrap_or("a test"));
    println!("SKIPPED: {line}");
    let Some(path) = std::env::var_os(FILE) else {
        return;
    };
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path);
    // One write per line: parallel tests append to the same file.
    let written = file
        .and_then(|mut file| file.write_all(format!("{}\n", line.replace('\n', " ")).as_bytes()));
    assert!(written.is_ok(), "{FILE}: {written:?}");
}
