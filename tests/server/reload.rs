//! SIGHUP reloads mcomp.cfg: what can change does, and a changed layout is refused while the old
//! one stays in use.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use support::wire::{TEST_TIMEOUT, Wire};
use support::{Cluster, client, wait_for};

const K: u64 = 1 << 20;

/// Writes another mcomp.cfg and sends SIGHUP.
fn reload(cluster: &Cluster, text: &str) {
    std::fs::write(cluster.config_path(), text).unwrap();
    cluster.signal(0, Signal::SIGHUP);
}

fn config_text(cluster: &Cluster) -> String {
    std::fs::read_to_string(cluster.config_path()).unwrap()
}

/// Waits until the log contains `word` after its first `before` bytes.
fn wait_for_log(cluster: &Cluster, before: usize, word: &str) {
    wait_for(&format!("the log says {word:?}"), TEST_TIMEOUT, || {
        cluster.stderr(0)[before..].contains(word)
    });
}

#[test]
fn limits_change_and_connections_stay() {
    let cluster = Cluster::builder()
        .k(K)
        .config("[limits]\nconnections = 100\n")
        .start();
    let text = config_text(&cluster);
    let client = client(&cluster);
    client.write(0, b"before").unwrap();
    let mut wire = Wire::greeted(cluster.layout(), 0);
    let accepted = client.status(0).unwrap().connections.accepted;

    reload(
        &cluster,
        &text.replace(
            "connections = 100",
            "connections = 55\nhello_timeout = \"300ms\"",
        ),
    );
    let limit = || client.status(0).unwrap().connections.limit;
    wait_for("the new limit", TEST_TIMEOUT, || limit() == 55);
    let mut without_hello = Wire::connect(cluster.address(0));
    let began = Instant::now();
    without_hello
        .reply()
        .assert_refused(dsm_core::protocol::Code::TooSlow, &["limits.hello_timeout"]);
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "the old timeout is still in force"
    );

    assert_eq!(client.read(0, 6).unwrap(), b"before");
    assert_eq!(
        wire.ask(
            1,
            dsm_core::protocol::Request::Ping(b"still the same connection")
        )
        .code(),
        None
    );
    // Only the connection without a hello is new.
    assert!(
        client.status(0).unwrap().connections.accepted <= accepted + 1,
        "clients had to connect again"
    );
}

/// Sends a hello with another k; returns when it was refused.
fn provoke_warning(cluster: &Cluster) {
    let layout =
        dsm_core::layout::Layout::new(cluster.name(), 2 * K, cluster.layout().addresses().to_vec())
            .unwrap();
    let mut wire = Wire::connect(cluster.address(0));
    wire.send(&support::wire::hello(&layout, 0));
    wire.reply()
        .assert_refused(dsm_core::protocol::Code::LayoutDiffers, &["k:"]);
}

#[test]
fn the_log_level_and_the_operation_log_change() {
    let cluster = Cluster::builder().k(K).create();
    let directory = cluster.directory().join("log");
    std::fs::create_dir(&directory).unwrap();
    let text = config_text(&cluster);
    let with = |level: &str, operations: &str| {
        format!(
            "{text}\n[log]\nlevel = {level:?}\noperations = {operations:?}\ndirectory = {directory:?}\n"
        )
    };
    std::fs::write(cluster.config_path(), with("error", "off")).unwrap();
    cluster.start_server(0);
    let client = client(&cluster);
    client.write(0, b"not logged").unwrap();
    provoke_warning(&cluster);
    assert!(
        !cluster.stderr(0).contains("mcomp.cfg differs"),
        "{}",
        cluster.stderr(0)
    );
    let before = cluster.stderr(0).len();
    assert_eq!(client.status(0).unwrap().operation_log.mode.as_str(), "off");

    reload(&cluster, &with("debug", "all"));
    wait_for("the operation log is on", TEST_TIMEOUT, || {
        client.status(0).unwrap().operation_log.mode.as_str() == "all"
    });
    client.write(0, b"logged").unwrap();
    wait_for("lines are written", TEST_TIMEOUT, || {
        client.status(0).unwrap().operation_log.written > 0
    });
    // A hello with another layout is logged as a warning, which level error suppresses.
    provoke_warning(&cluster);
    wait_for_log(&cluster, before, "mcomp.cfg differs");

    reload(&cluster, &with("error", "off"));
    wait_for("the operation log is off", TEST_TIMEOUT, || {
        client.status(0).unwrap().operation_log.mode.as_str() == "off"
    });
    assert_eq!(client.read(0, 6).unwrap(), b"logged");
}

#[test]
fn a_changed_layout_is_refused_and_the_old_one_stays_in_use() {
    let cluster = Cluster::start(2, K);
    let text = config_text(&cluster);
    let client = client(&cluster);
    client.write(K - 3, b"before").unwrap();
    let other = "127.0.0.1:9";
    let address = cluster.address(1).to_owned();
    let changes = [
        ("k = 1048576", "k = 2097152", "k:"),
        (address.as_str(), other, other),
        (cluster.name(), "other-name", "name"),
    ];
    for (from, to, named) in changes {
        let before = cluster.stderr(0).len();
        reload(&cluster, &text.replace(from, to));
        wait_for_log(&cluster, before, named);
        let log = &cluster.stderr(0)[before..];
        println!("{}", log.trim());
        assert!(
            log.to_lowercase().contains("restart"),
            "{log:?} does not say what to do"
        );
        assert_eq!(client.read(K - 3, 6).unwrap(), b"before");
        // A new connection with the old layout is still accepted.
        assert_eq!(support::client(&cluster).read(K - 3, 3).unwrap(), b"bef");
    }
}

#[test]
fn a_broken_file_is_refused_by_line_and_the_old_one_stays_in_use() {
    let cluster = Cluster::start(1, K);
    let text = config_text(&cluster);
    let client = client(&cluster);
    for (broken, said) in [
        (format!("{text}\nthis is no TOML"), "mcomp.cfg"),
        (format!("{text}\n[limits]\nconections = 5\n"), "conections"),
    ] {
        let before = cluster.stderr(0).len();
        reload(&cluster, &broken);
        wait_for_log(&cluster, before, said);
        println!("{}", cluster.stderr(0)[before..].trim());
        assert_eq!(client.read(0, 8).unwrap(), [0; 8]);
    }
    // Many signals at once do no harm.
    std::fs::write(cluster.config_path(), &text).unwrap();
    for _ in 0..50 {
        cluster.signal(0, Signal::SIGHUP);
    }
    client.write(0, b"good").unwrap();
    assert_eq!(client.read(0, 4).unwrap(), b"good");
}

/// Runs `dsmd --reload` for server 0; its exit code and its message.
fn ask_for_reload(cluster: &Cluster, pid: u32) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_dsmd"));
    // As in the environment of a unit.
    command
        .env("DSM_CONFIG", cluster.directory().join("not-read"))
        .args(["--reload", &pid.to_string()]);
    let output = command.output().unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn the_reload_command_reports_whether_the_file_was_applied() {
    let cluster = Cluster::builder()
        .k(K)
        .config("[limits]\nconnections = 100\n")
        .start();
    let (text, pid) = (config_text(&cluster), cluster.pid(0));
    let limit = || client(&cluster).status(0).unwrap().connections.limit;
    for round in 0..3 {
        for broken in [
            format!("{text}\nthis is no TOML"),
            text.replace("k = 1048576", "k = 2097152"),
            text.replace(cluster.name(), "other-name"),
            text.replace("n = 1", "n = 2") + "\n[[server]]\naddress = \"192.0.2.1:9\"\n",
        ] {
            let before = cluster.stderr(0).len();
            std::fs::write(cluster.config_path(), &broken).unwrap();
            let (code, said) = ask_for_reload(&cluster, pid);
            assert!(
                code == Some(78) && said.contains("refused"),
                "{code:?}: {said}"
            );
            // The log has the reason already.
            assert!(
                cluster.stderr(0)[before..].contains("reload refused"),
                "{}",
                cluster.stderr(0)
            );
            assert_eq!(limit(), 100 - round);
        }
        std::fs::write(
            cluster.config_path(),
            text.replace(
                "connections = 100",
                &format!("connections = {}", 99 - round),
            ),
        )
        .unwrap();
        assert_eq!(ask_for_reload(&cluster, pid), (Some(0), String::new()));
        assert_eq!(
            limit(),
            99 - round,
            "the reload was complete when the command ended"
        );
    }
    cluster.stop(0);
    let (code, said) = ask_for_reload(&cluster, pid);
    assert!(
        code == Some(69) && said.contains("no dsmd"),
        "{code:?}: {said}"
    );
    // A process that is no dsmd must get no signal, which would end it.
    let (code, said) = ask_for_reload(&cluster, std::process::id());
    assert!(
        code == Some(69) && said.contains("no dsmd"),
        "{code:?}: {said}"
    );
}
