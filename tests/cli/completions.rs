//! `dsmctl completions`: shells offer what the programs accept, and nothing that they refuse.

// The lint exempts test functions, but not their helpers.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;
use support::Cluster;

const PROGRAMS: [&str; 3] = ["dsmctl", "dsmd", "dsm-snapshot"];

fn script(shell: &str, program: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_dsmctl"))
        .args(["completions", shell, program])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The completions that bash offers in `folder` when Tab is pressed at the end of `line`.
fn offered(folder: &Path, config: &Path, line: &str) -> Vec<String> {
    let mut words: Vec<&str> = line.split(' ').collect();
    let (current, program) = (words.pop().unwrap(), words[0]);
    // Calls the function like bash does. A real compopt fails outside of a completion by bash.
    let call = "source <(printf '%s' \"$SCRIPT\"); compopt() { :; }\n\
                function=$(complete -p \"$1\" | sed 's/.* -F \\([^ ]*\\) .*/\\1/')\n\
                COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1))\n\
                \"$function\" \"$1\" \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"\n\
                printf '%s\\n' \"${COMPREPLY[@]}\"";
    let path = format!(
        "{}:/usr/bin:/bin",
        Path::new(env!("CARGO_BIN_EXE_dsmctl"))
            .parent()
            .unwrap()
            .display()
    );
    let mut command = Command::new("bash");
    command
        .args(["-c", call, "bash"])
        .args(&words)
        .arg(current)
        .current_dir(folder);
    command
        .env("SCRIPT", script("bash", program))
        .env("DSM_CONFIG", config)
        .env("PATH", path);
    let output = command.output().unwrap();
    let (text, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && errors.is_empty(),
        "{line}: {text}{errors}"
    );
    text.lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn bash_offers_files_and_snapshots_for_a_snapshot_argument() {
    let cluster = Cluster::start(1, 64 << 10);
    cluster.start_agents();
    let snapshot = cluster
        .snapshot()
        .path()
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("dsm-here.dsnap"), "").unwrap();
    std::fs::write(folder.path().join("other file"), "").unwrap();
    let config = cluster.config_path();
    let offered = |line: &str| {
        let mut offered = offered(folder.path(), &config, line);
        offered.sort();
        offered
    };
    for command in [
        "restore",
        "show",
        "verify",
        "export",
        "diff",
        "restore --force",
        "--json verify",
    ] {
        assert_eq!(
            offered(&format!("dsmctl snapshot {command} dsm-h")),
            ["dsm-here.dsnap"],
            "{command}"
        );
        let all = offered(&format!("dsmctl snapshot {command} "));
        assert_eq!(
            all,
            [snapshot.as_str(), "dsm-here.dsnap", "other file"],
            "{command}"
        );
    }
    let elsewhere = format!("dsmctl --config {} snapshot show dsm", config.display());
    assert_eq!(offered(&elsewhere), [snapshot.as_str(), "dsm-here.dsnap"]);
    assert!(offered("dsmctl snapshot restore --").contains(&"--range".to_owned()));
    // bash cannot complete numbers, and must not offer files for them.
    for line in [
        "dsmctl read ",
        "dsmctl read 0 ",
        "dsmctl snapshot restore --range 0 ",
        "dsmctl bench --range 0 ",
    ] {
        assert!(offered(line).is_empty(), "{line}: {:?}", offered(line));
    }
    assert_eq!(offered("dsmctl read 0 8 --format he"), ["hex", "hexdump"]);
    assert_eq!(offered("dsmctl --config ot"), ["other file"]);
    assert_eq!(offered("dsmctl sn"), ["snapshot"]);
    assert_eq!(offered("dsmctl completions ba"), ["bash"]);
}

#[test]
fn bash_completes_the_options_and_commands_of_the_daemons() {
    let folder = tempfile::tempdir().unwrap();
    let offered = |line: &str| offered(folder.path(), &folder.path().join("none"), line);
    assert_eq!(offered("dsmd --res"), ["--reset"]);
    assert_eq!(offered("dsm-snapshot ag"), ["agent"]);
}

#[test]
fn zsh_offers_options_with_two_values_without_an_equals_sign() {
    let (with_equals_sign, without) = ("'--range=[", "'--range[");
    let script = script("zsh", "dsmctl");
    assert!(script.contains(without) && !script.contains(with_equals_sign));
    // The reason: clap refuses the form with an equals sign.
    let refused = Command::new(env!("CARGO_BIN_EXE_dsmctl"))
        .args(["bench", "--range=0", "8"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(64));
    // Options with one value accept both forms.
    assert!(script.contains("'--config=["));
}

#[test]
fn the_script_for_every_shell_has_every_option_of_every_program() {
    let commands = [
        dsm_service::cli::command(),
        dsm_service::server::command(),
        dsm_service::agent::command(),
    ];
    for (program, mut command) in PROGRAMS.into_iter().zip(commands) {
        command.build();
        for shell in ["bash", "fish", "zsh", "elvish", "powershell"] {
            let script = script(shell, program);
            for name in command.get_opts().filter_map(clap::Arg::get_long) {
                assert!(script.contains(name), "{shell}: {program} --{name}");
            }
        }
    }
}
