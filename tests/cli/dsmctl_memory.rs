//! dsmctl with real servers: it reads back what it wrote, in every format, and reports servers that
//! fail.

#![allow(clippy::unwrap_used)] // The lint exempts test functions, but not their helpers.

use std::path::PathBuf;
use support::Cluster;
use support::dsmctl::Run;

const MIB: u64 = 1 << 20;

fn dsmctl_with_input(cluster: &Cluster, line: &str, input: &[u8]) -> Run {
    support::dsmctl::run(cluster.directory(), &cluster.config_path(), line, input)
}

fn dsmctl(cluster: &Cluster, line: &str) -> Run {
    dsmctl_with_input(cluster, line, b"")
}

/// The output of a command, which must succeed.
#[track_caller]
fn prints(cluster: &Cluster, line: &str) -> String {
    let run = dsmctl(cluster, line);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{line}");
    String::from_utf8(run.stdout).unwrap()
}

/// Bytes that are different at every border of steps, so that a misplaced step is noticed.
fn pattern(length: u64) -> Vec<u8> {
    (0..length.div_ceil(8))
        .flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes())
        .collect()
}

fn file(cluster: &Cluster, name: &str, bytes: &[u8]) -> PathBuf {
    let path = cluster.directory().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_file_that_spans_all_servers_is_read_back_unchanged() {
    let cluster = Cluster::start(3, 16 * MIB);
    let data = pattern(37 * MIB);
    file(&cluster, "data", &data);
    assert_eq!(prints(&cluster, "write 5MiB+3 --file data"), "");
    assert_eq!(prints(&cluster, "read 5MiB+3 37MiB -o copy"), "");
    assert!(std::fs::read(cluster.directory().join("copy")).unwrap() == data);
    assert!(dsmctl(&cluster, "read 5MiB+3 37MiB").stdout == data);

    // Writes through a pipe, then copies to an overlapping range above and below.
    let written = dsmctl_with_input(&cluster, "write 0 - --json", &data[..20 << 20]);
    assert_eq!(
        String::from_utf8(written.stdout).unwrap(),
        "{\"address\":0,\"length\":20971520}\n"
    );
    for (from, to) in [(0, 7 * MIB + 1), (7 * MIB + 1, 3)] {
        prints(&cluster, &format!("copy {from} {to} 20MiB"));
        assert!(
            dsmctl(&cluster, &format!("read {to} 20MiB --format raw")).stdout == data[..20 << 20],
            "{from} to {to}"
        );
    }
    prints(&cluster, "fill 1 50331647 7");
    let filled = dsmctl(&cluster, "read 1 50331647").stdout;
    assert!(filled.len() == 50_331_647 && filled.iter().all(|byte| *byte == 7));
}

#[test]
fn values_are_read_back_in_every_format() {
    let cluster = Cluster::start(2, 64 << 10);
    prints(&cluster, "write 0 hello");
    assert_eq!(prints(&cluster, "read 0 5 --format text"), "hello\n");
    assert_eq!(prints(&cluster, "read 0 5"), "hello");
    assert_eq!(prints(&cluster, "read 0 5 --format hex"), "68656c6c6f\n");
    assert_eq!(
        prints(&cluster, "read 0 5 --json"),
        "{\"address\":0,\"length\":5,\"hex\":\"68656c6c6f\"}\n"
    );
    prints(&cluster, "write 0xfffc --type i32 -5 7");
    assert_eq!(prints(&cluster, "read 0xfffc 8 --format i32"), "-5\n7\n");
    assert_eq!(
        prints(&cluster, "read 0xfff8 16 --format hexdump"),
        "0000fff8  00 00 00 00 fb ff ff ff  07 00 00 00 00 00 00 00  |................|\n00010008\n"
    );
    assert_eq!(prints(&cluster, "read 7 0"), "");
    prints(&cluster, "read 0 0 -o empty");
    assert_eq!(
        std::fs::read(cluster.directory().join("empty")).unwrap(),
        b""
    );
}

#[test]
fn data_may_begin_with_a_minus_and_hold_any_bytes() {
    let cluster = Cluster::start(1, 64 << 10);
    prints(&cluster, "write 0 --type text -- -");
    assert_eq!(prints(&cluster, "read 0 1 --format text"), "-\n");
    prints(&cluster, "write 0 --type i64 -0x5");
    assert_eq!(prints(&cluster, "read 0 8 --format i64"), "-5\n");
    prints(&cluster, "write 0 --type f64 -inf");
    assert_eq!(prints(&cluster, "read 0 8 --format f64"), "-inf\n");
    let latin: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"caf\xe9");
    let mut command = assert_cmd::Command::cargo_bin("dsmctl").unwrap();
    let output = command
        .env("DSM_CONFIG", cluster.config_path())
        .args(["write", "0"])
        .arg(latin)
        .output()
        .unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
    assert_eq!(prints(&cluster, "read 0 4 --format hex"), "636166e9\n");
}

#[test]
fn atomic_operations_change_the_word_and_print_its_old_value() {
    let cluster = Cluster::start(1, 64 << 10);
    assert_eq!(prints(&cluster, "add 8 -1"), "0\n");
    assert_eq!(
        prints(&cluster, "add 8 2 --json"),
        "{\"address\":8,\"new\":1,\"old\":18446744073709551615}\n"
    );
    assert_eq!(prints(&cluster, "swap 8 0x10"), "1\n");
    assert_eq!(prints(&cluster, "cas 8 16 5"), "16\n");
    let missed = dsmctl(&cluster, "cas 8 16 6");
    assert_eq!(
        (
            missed.code,
            missed.stdout.as_slice(),
            missed.stderr.as_str()
        ),
        (1, &b"5\n"[..], "")
    );
    assert_eq!(prints(&cluster, "read 8 8 --format u64"), "5\n");
    assert_eq!(dsmctl(&cluster, "add 9 1").code, 65);
}

#[test]
fn input_past_the_end_of_the_memory_reports_how_much_was_written() {
    let cluster = Cluster::start(1, 64 << 10);
    let run = dsmctl_with_input(&cluster, "write 65000 -", &[9; 1000]);
    assert_eq!(run.code, 65);
    assert!(
        run.stderr
            .contains("the first 536 bytes were written, up to address 65536"),
        "{}",
        run.stderr
    );
    assert_eq!(dsmctl(&cluster, "read 65000 536").stdout, [9; 536]);
    let exactly = dsmctl_with_input(&cluster, "write 65000 -", &[8; 536]);
    assert_eq!((exactly.code, exactly.stderr.as_str()), (0, ""));
}

#[test]
fn status_and_ping_show_which_servers_are_up_and_which_are_down() {
    let cluster = Cluster::start(3, 64 << 10);
    prints(&cluster, "write 0 hello");
    let status = prints(&cluster, "status");
    assert_eq!(status.lines().count(), 4, "{status}");
    assert_eq!(prints(&cluster, "ping --count 3").lines().count(), 3);
    assert_eq!(prints(&cluster, "ping 2").lines().count(), 1);
    let rows: Vec<serde_json::Value> =
        serde_json::from_str(&prints(&cluster, "status --json")).unwrap();
    assert_eq!(rows[0]["traffic"]["bytes_written"], 5);
    assert_eq!(
        (&rows[2]["state"], &rows[2]["index"]),
        (&"up".into(), &2.into())
    );

    cluster.kill(1);
    for (line, lines) in [("status", 4), ("ping", 3)] {
        let run = dsmctl(&cluster, line);
        let stdout = String::from_utf8(run.stdout).unwrap();
        assert_eq!((run.code, stdout.lines().count()), (69, lines), "{stdout}");
        let down: Vec<&str> = stdout
            .lines()
            .filter(|line| line.contains("down: "))
            .collect();
        assert!(
            down.len() == 1 && down[0].contains(cluster.address(1)),
            "{stdout}"
        );
        assert!(run.stderr.contains("1 of 3 servers"), "{}", run.stderr);
    }
    let run = dsmctl(&cluster, "--timeout 300ms read 0 128KiB+1");
    assert_eq!(run.code, 69);
    assert!(
        run.stderr
            .contains(&format!("server 1 ({})", cluster.address(1))),
        "{}",
        run.stderr
    );
}

#[test]
fn a_server_that_refuses_is_not_reported_as_down() {
    let cluster = Cluster::start(1, 64 << 10);
    let text = std::fs::read_to_string(cluster.config_path()).unwrap();
    file(
        &cluster,
        "other.cfg",
        text.replace("k = 65536", "k = 131072").as_bytes(),
    );
    for line in [
        "status --config other.cfg",
        "ping --config other.cfg",
        "read 0 1 --config other.cfg",
    ] {
        let run = dsmctl(&cluster, line);
        assert_eq!(run.code, 78, "{line}: {}", run.stderr);
        let all = String::from_utf8(run.stdout).unwrap() + &run.stderr;
        assert_eq!(
            all.matches("mcomp.cfg differs between").count(),
            1,
            "{line}: {all}"
        );
        assert_eq!(
            all.contains("refused: "),
            !line.starts_with("read"),
            "{line}: {all}"
        );
        assert!(
            !all.contains("down") && !all.contains("systemctl"),
            "{line}: {all}"
        );
    }
    let stdout = dsmctl(&cluster, "status --json --config other.cfg").stdout;
    let rows: serde_json::Value = serde_json::from_slice(&stdout).unwrap();
    assert_eq!(rows[0]["state"], "refused");
}

#[test]
fn a_peer_with_another_protocol_is_exit_code_76_for_status_and_ping() {
    let cluster = Cluster::start(1, 64 << 10);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answer = move || {
        for stream in listener.incoming().take(2) {
            std::io::Write::write_all(
                &mut stream.unwrap(),
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
            )
            .unwrap();
        }
    };
    let web_server = std::thread::spawn(answer);
    let text = std::fs::read_to_string(cluster.config_path()).unwrap();
    file(
        &cluster,
        "web.cfg",
        text.replace(cluster.address(0), &address).as_bytes(),
    );
    for line in ["status --config web.cfg", "ping --config web.cfg"] {
        let run = dsmctl(&cluster, line);
        assert_eq!(run.code, 76, "{line}: {}", run.stderr);
        assert!(
            String::from_utf8(run.stdout)
                .unwrap()
                .contains("protocol: "),
            "{line}"
        );
    }
    web_server.join().unwrap();
}
