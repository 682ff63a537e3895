//! On a terminal, a restore asks for confirmation before it changes anything.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::process::{Command, Stdio};
use support::Cluster;
use support::skip::skip;

/// A command of script(1), which creates a terminal and runs a command on it.
fn script(line: &str) -> Command {
    let mut command = Command::new("script");
    command
        .args(["--quiet", "--return", "--command", line, "/dev/null"])
        .env("NO_COLOR", "1");
    command
}

/// Whether this machine can create a terminal, which takes script(1) and a devpts. Prints the
/// reason if not.
fn there_are_terminals() -> bool {
    match script("true").stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            skip(format!(
                "script(1) gets no terminal here: {}",
                String::from_utf8_lossy(&said).trim()
            ));
            false
        }
        Err(error) => {
            skip(format!("script(1) cannot be run: {error}"));
            false
        }
    }
}

/// Runs `dsmctl snapshot restore` on a terminal where `answer` is typed. Returns its exit code and
/// the contents of the terminal.
fn on_a_terminal(cluster: &Cluster, arguments: &str, answer: &str) -> (i32, String) {
    let dsmctl = env!("CARGO_BIN_EXE_dsmctl");
    let line = format!(
        "'{dsmctl}' --config '{}' snapshot restore {arguments}",
        cluster.config_path().display()
    );
    let mut child = script(&line)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The terminal buffers an answer that is typed before the question.
    child
        .stdin
        .as_mut()
        .unwrap()
        .write_all(answer.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

#[test]
fn an_answer_other_than_yes_changes_nothing() {
    if !there_are_terminals() {
        return;
    }
    let cluster = Cluster::start(1, 64 << 10);
    cluster.start_agents();
    cluster.write_all(b"before");
    let file = cluster.snapshot().path().to_owned();
    cluster.write_all(b"since");
    let file = file.to_str().unwrap();
    for answer in ["n\n", "\n", "yess\n", "\u{4}"] {
        let (code, said) = on_a_terminal(&cluster, file, answer);
        assert_eq!(code, 1, "{answer:?}: {said}");
        for words in [
            "64 KiB",
            cluster.name(),
            "All later writes there are lost",
            "[y/N]",
            "nothing was changed",
        ] {
            assert!(said.contains(words), "no {words:?} in {said}");
        }
        assert!(cluster.read_all().starts_with(b"since"));
    }
    let (code, said) = on_a_terminal(&cluster, file, "y\n");
    println!("{said}");
    assert_eq!(code, 0, "{said}");
    assert!(cluster.read_all().starts_with(b"before"));

    cluster.write_all(b"since");
    let (code, said) = on_a_terminal(&cluster, &format!("{file} --yes"), "");
    assert!(code == 0 && !said.contains("[y/N]"), "{said}");
    assert!(cluster.read_all().starts_with(b"before"));
}
