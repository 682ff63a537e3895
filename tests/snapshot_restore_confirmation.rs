//! On a terminal a restore asks before it changes anything.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write as _;
use std::process::{Command, Stdio};
use support::Cluster;

/// Runs `dsmctl snapshot restore` on a terminal of its own, made by script(1), where somebody types `answer`. Its exit code,
/// and what stands on the terminal; none, with the reason printed, where there is no script(1).
fn on_a_terminal(cluster: &Cluster, arguments: &str, answer: &str) -> Option<(i32, String)> {
    let dsmctl = env!("CARGO_BIN_EXE_dsmctl");
    let line = format!("'{dsmctl}' --config '{}' snapshot restore {arguments}", cluster.config_path().display());
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env("NO_COLOR", "1");
    let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            println!("SKIPPED: script(1) cannot be run: {error}");
            return None;
        }
    };
    // Typed before it is asked for, it waits in the terminal.
    child.stdin.as_mut().unwrap().write_all(answer.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Some((output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

#[test]
fn whoever_does_not_say_yes_changes_nothing() {
    let cluster = Cluster::start(1, 64 << 10);
    cluster.start_agents();
    cluster.write_all(b"before");
    let file = cluster.snapshot().path().to_owned();
    cluster.write_all(b"since");
    let file = file.to_str().unwrap();
    for answer in ["n\n", "\n", "yess\n", "\u{4}"] {
        let Some((code, said)) = on_a_terminal(&cluster, file, answer) else { return };
        assert_eq!(code, 1, "{answer:?}: {said}");
        for words in ["64 KiB", cluster.name(), "What was written since is lost", "[y/N]", "nothing was changed"] {
            assert!(said.contains(words), "no {words:?} in {said}");
        }
        assert!(cluster.read_all().starts_with(b"since"));
    }
    let (code, said) = on_a_terminal(&cluster, file, "y\n").unwrap();
    println!("{said}");
    assert_eq!(code, 0, "{said}");
    assert!(cluster.read_all().starts_with(b"before"));

    cluster.write_all(b"since");
    let (code, said) = on_a_terminal(&cluster, &format!("{file} --yes"), "").unwrap();
    assert!(code == 0 && !said.contains("[y/N]"), "{said}");
    assert!(cluster.read_all().starts_with(b"before"));
}
