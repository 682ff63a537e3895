//! Tests that cannot run where they are. The output of a test that passes is not shown, so `make
//! test` names a file for this.

use std::fmt::Display;
use std::io::Write;

/// The file that `make test` shows at its end.
const FILE: &str = "DSM_TEST_SKIPS";

/// Says why this test, or a part of it, does not run here.
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
    // One write, for many tests do this at the same time.
    let written = file
        .and_then(|mut file| file.write_all(format!("{}\n", line.replace('\n', " ")).as_bytes()));
    assert!(written.is_ok(), "{FILE}: {written:?}");
}
