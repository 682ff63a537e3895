//! The exit codes of dsmctl are those of sysexits(3). These tests need no server.

#![allow(clippy::unwrap_used)] // The lint exempts test functions, but not their helpers.

use assert_cmd::Command;
use std::path::{Path, PathBuf};

/// A memory of two servers of 64 KiB, none of which runs: port 9 of loopback refuses connections.
const CONFIG_WITHOUT_SERVERS: &str = "k = \"64KiB\"\nn = 2\n[[server]]\naddress = \"127.0.0.1:9\"\n[[server]]\naddress = \"[::1]:9\"\n";

struct OfflineFolder(tempfile::TempDir);

impl OfflineFolder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.file("mcomp.cfg", CONFIG_WITHOUT_SERVERS);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), contents).unwrap();
        self.path(name)
    }

    fn dsmctl(&self, line: &str) -> OfflineRun {
        self.dsmctl_with_input(line, b"")
    }

    fn dsmctl_with_input(&self, line: &str, input: &[u8]) -> OfflineRun {
        let mut command = Command::cargo_bin("dsmctl").unwrap();
        command.current_dir(&self.0).env_remove("DSM_CONFIG").args([
            "--config",
            "mcomp.cfg",
            "--timeout",
            "300ms",
        ]);
        OfflineRun::of(command.args(line.split_whitespace()).write_stdin(input))
    }
}

struct OfflineRun {
    code: i32,
    stdout: String,
    stderr: String,
}

impl OfflineRun {
    fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code().unwrap(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    #[track_caller]
    fn fails(&self, code: i32, message: &str) {
        assert_eq!(self.code, code, "{}", self.stderr);
        assert!(self.stderr.contains(message), "{}", self.stderr);
        assert_eq!(self.stdout, "");
    }
}

#[test]
fn a_bad_command_line_is_exit_code_64_and_help_is_0() {
    let folder = OfflineFolder::new();
    for line in ["", "nonsense", "config", "write 0"] {
        folder.dsmctl(line).fails(64, "Usage: dsmctl");
    }
    for line in ["read zero 1", "fill 0 1 256"] {
        folder.dsmctl(line).fails(64, "dsmctl: invalid value");
    }
    for (line, message) in [
        ("add 0 --jsn", "a similar argument exists: '--json'"),
        ("add -8 1", "'-8' for '<ADDRESS>': it is negative"),
        (
            "fill 0 10 -1",
            "'-1' for '<BYTE>': \"-1\" is not a byte: give a whole number from 0 to 255",
        ),
        ("fill 0 10 a", "from 0 to 255"),
        ("add 8 -inf", "\"-inf\" is not a whole number"),
        ("ping -1", "is not the index of a server"),
        (
            "write 0 --type f64 1e-400",
            "so small that it would be stored as 0",
        ),
    ] {
        let run = folder.dsmctl(line);
        run.fails(64, message);
        assert!(!run.stderr.contains("tip: to pass"), "{}", run.stderr);
    }
    folder
        .dsmctl("write 0 --type u8 7 300")
        .fails(64, "300 does not fit u8 (0 to 255)");
    folder
        .dsmctl("read 0 3 --format u16")
        .fails(64, "a u16 takes 2");
    folder
        .dsmctl("read 0 4 --format raw --json")
        .fails(64, "--json");
    folder.dsmctl("write 0 - --type u8").fails(64, "--type");
    folder.dsmctl("ping 2").fails(64, "0 to 1");
    for line in ["--help", "--version", "write --help", "config check --help"] {
        let run = folder.dsmctl(line);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{line}");
        assert!(run.stdout.contains("dsmctl"), "{line}");
    }
    for (help, option) in [
        ("help", "--help"),
        ("help read", "read --help"),
        ("help snapshot", "snapshot --help"),
        ("help snapshot create", "snapshot create --help"),
    ] {
        let (run, same) = (folder.dsmctl(help), folder.dsmctl(option));
        assert_eq!(
            (run.code, run.stderr.as_str(), run.stdout),
            (0, "", same.stdout),
            "{help}"
        );
    }
    folder.dsmctl("help nonsense").fails(64, "nonsense");
}

#[test]
fn a_missing_or_invalid_configuration_is_exit_code_78_and_names_the_file() {
    let folder = OfflineFolder::new();
    folder.file(
        "bad.cfg",
        "k = 5\nn = 1\n[[server]]\naddress = \"127.0.0.1:9\"\n",
    );
    let dsmctl = |arguments: &[&str], environment: Option<&Path>| {
        let mut command = Command::cargo_bin("dsmctl").unwrap();
        command
            .current_dir(&folder.0)
            .env_remove("DSM_CONFIG")
            .args(arguments);
        if let Some(path) = environment {
            command.env("DSM_CONFIG", path);
        }
        OfflineRun::of(&mut command)
    };
    for command in ["status", "config check", "config show", "locate 0"] {
        let line: Vec<&str> = ["--config", "missing.cfg"]
            .into_iter()
            .chain(command.split(' '))
            .collect();
        dsmctl(&line, None).fails(78, "missing.cfg");
        let line: Vec<&str> = ["--config", "bad.cfg"]
            .into_iter()
            .chain(command.split(' '))
            .collect();
        dsmctl(&line, None).fails(78, "bad.cfg:1:5");
    }
    dsmctl(&["--config", ".", "locate", "0"], None)
        .fails(78, ": name the file in it with --config");
    dsmctl(&["locate", "0"], Some(Path::new("missing.cfg"))).fails(78, "missing.cfg");
    assert_eq!(
        dsmctl(&["locate", "0"], Some(Path::new("mcomp.cfg"))).code,
        0
    );
    assert_eq!(
        dsmctl(
            &["--config", "mcomp.cfg", "locate", "0"],
            Some(Path::new("missing.cfg"))
        )
        .code,
        0
    );
}

#[test]
fn a_range_outside_the_memory_is_exit_code_65_and_changes_nothing() {
    let folder = OfflineFolder::new();
    folder.file("long", vec![7; 128 << 10]);
    let kept = folder.file("kept", "kept");
    for line in [
        "locate 128KiB",
        "locate 0x1fff0 17",
        "read 128KiB 1",
        "read 0 129KiB -o kept",
        "write 128KiB x",
        "write 1 --file long",
        "write 128KiB+1 -",
        "fill 1 128KiB 0",
        "copy 0 64KiB 64KiB+1",
        "copy 64KiB+1 0 64KiB",
        "add 128KiB 1",
    ] {
        folder
            .dsmctl(line)
            .fails(65, "outside the memory, which has 131072 bytes");
    }
    folder
        .dsmctl("copy 128KiB 0 1")
        .fails(65, "the source: address 131072");
    folder
        .dsmctl("copy 0 128KiB 1")
        .fails(65, "the destination: address 131072");
    assert_eq!(std::fs::read(kept).unwrap(), b"kept");
    folder
        .dsmctl_with_input("write 128KiB -", b"x")
        .fails(65, "past the end of the memory");
    for line in ["add 4 1", "swap 0x7 1", "cas 1 0 1"] {
        folder.dsmctl(line).fails(65, "8");
    }
}

#[test]
fn a_server_that_is_down_is_exit_code_69_and_named() {
    let folder = OfflineFolder::new();
    let kept = folder.file("kept", "kept");
    for line in [
        "write 0 x",
        "read 0 1",
        "read 0 1 -o kept",
        "fill 0 1 0",
        "copy 0 8 8",
        "add 0 1",
        "cas 0 0 1",
    ] {
        folder.dsmctl(line).fails(69, "127.0.0.1:9");
    }
    assert_eq!(std::fs::read(kept).unwrap(), b"kept");
    for line in ["status", "ping", "ping 1 --count 3"] {
        let run = folder.dsmctl(line);
        assert_eq!(run.code, 69, "{line}");
        assert!(
            run.stdout.contains("down") && run.stdout.contains("[::1]:9"),
            "{line}: {}",
            run.stdout
        );
    }
    for line in ["status --json", "ping --json"] {
        let run = folder.dsmctl(line);
        let rows: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(run.code, 69, "{line}");
        assert_eq!(rows[1]["state"], "down", "{line}");
        assert_eq!(rows[1]["address"], "[::1]:9", "{line}");
    }
}

#[test]
fn files_that_cannot_be_used_are_exit_codes_66_and_74() {
    let folder = OfflineFolder::new();
    folder.dsmctl("write 0 --file missing").fails(66, "missing");
    folder.dsmctl("write 0 --file .").fails(74, ".:");
    folder
        .dsmctl("read 0 0 -o missing/file")
        .fails(74, "missing/file");
}

#[test]
fn locate_shows_the_pieces_without_a_server() {
    let folder = OfflineFolder::new();
    let run = folder.dsmctl("locate 0xfffa 20");
    assert_eq!(
        run.stdout,
        "address 65530  length 6   server 0 (127.0.0.1:9)  offset 65530\n\
         address 65536  length 14  server 1 ([::1]:9)      offset 0\n"
    );
    let pieces: serde_json::Value =
        serde_json::from_str(&folder.dsmctl("locate 64KiB+8 --json").stdout).unwrap();
    assert_eq!(
        pieces,
        serde_json::json!([{"address": 65544, "length": 1, "server": 1, "server_address": "[::1]:9", "offset": 8}])
    );
}

#[test]
fn config_check_reports_ok_and_show_prints_the_origin_of_values() {
    let folder = OfflineFolder::new();
    let run = folder.dsmctl("config check");
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert!(
        run.stdout
            .starts_with("mcomp.cfg: ok (2 servers of 64 KiB, a memory of 128 KiB"),
        "{}",
        run.stdout
    );
    let run = folder.dsmctl("config show");
    let line = |key: &str| {
        run.stdout
            .lines()
            .find(|line| line.starts_with(key))
            .unwrap()
            .to_owned()
    };
    assert!(line("k ").ends_with("line 1"), "{}", run.stdout);
    assert!(
        line("security.trusted_network ").ends_with("default"),
        "{}",
        run.stdout
    );
    assert!(run.stdout.starts_with("# mcomp.cfg\n"), "{}", run.stdout);
    let shown: serde_json::Value =
        serde_json::from_str(&folder.dsmctl("config show --json").stdout).unwrap();
    assert_eq!(shown["file"], "mcomp.cfg");
    let n = shown["settings"]
        .as_array()
        .unwrap()
        .iter()
        .find(|setting| setting["key"] == "n")
        .unwrap();
    assert_eq!((&n["origin"], &n["line"]), (&"file".into(), &2.into()));

    folder.file(
        "mcomp.cfg",
        CONFIG_WITHOUT_SERVERS
            .replace("127.0.0.1", "192.0.2.1")
            .replace("[::1]", "192.0.2.2"),
    );
    let run = folder.dsmctl("config check");
    assert_eq!(run.code, 0);
    assert!(
        run.stderr.contains("warning: mcomp.cfg:4:") && run.stderr.contains("trusted_network"),
        "{}",
        run.stderr
    );

    // RFC 6761: a name in "invalid" is never resolved.
    let text = CONFIG_WITHOUT_SERVERS.replace("[::1]", "node2.invalid")
        + "[log]\noperations = \"all\"\ndirectory = \"/nowhere/log\"";
    folder.file("mcomp.cfg", text);
    let run = folder.dsmctl("config check");
    assert_eq!(run.code, 0);
    let words = [
        "mcomp.cfg:6:11: this machine cannot resolve the host name of server 1 (node2.invalid:9)",
        "the operation log, /nowhere/log, does not exist",
    ];
    assert!(
        words.iter().all(|words| run.stderr.contains(words)),
        "{}",
        run.stderr
    );
}

#[test]
fn config_check_warns_of_a_file_that_the_services_cannot_read() {
    use std::os::unix::fs::PermissionsExt;
    let folder = OfflineFolder::new();
    for (mode, warns) in [(0o600, true), (0o640, true), (0o644, false), (0o604, false)] {
        std::fs::set_permissions(
            folder.path("mcomp.cfg"),
            std::fs::Permissions::from_mode(mode),
        )
        .unwrap();
        let run = folder.dsmctl("config check");
        assert_eq!(run.code, 0, "{}", run.stderr);
        let warning = format!("warning: mcomp.cfg: the mode of this file is {mode:04o}");
        let complete = run.stderr.contains(&warning) && run.stderr.contains("chmod 644 mcomp.cfg");
        assert!(
            if warns {
                complete
            } else {
                run.stderr.is_empty()
            },
            "{mode:o}: {}",
            run.stderr
        );
    }
}

#[test]
fn a_closed_standard_output_is_no_error() {
    let folder = OfflineFolder::new();
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("dsmctl"))
        .current_dir(&folder.0)
        .args(["completions", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}

#[test]
fn output_that_cannot_be_written_is_exit_code_74() {
    let folder = OfflineFolder::new();
    for line in [["--help", "--json"], ["config", "show"]] {
        let output = std::process::Command::new(assert_cmd::cargo::cargo_bin("dsmctl"))
            .current_dir(&folder.0)
            .env("DSM_CONFIG", "mcomp.cfg")
            .args(line)
            .stdout(std::fs::File::create("/dev/full").unwrap())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(74), "{line:?}");
        assert!(
            String::from_utf8(output.stderr)
                .unwrap()
                .contains("standard output: "),
            "{line:?}"
        );
    }
}
