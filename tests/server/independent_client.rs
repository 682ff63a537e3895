//! A client in another language, written from docs/protocol.md alone, gets on with a running server.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use support::Cluster;

fn python(task: &str, cluster: &Cluster) -> Command {
    let (host, port) = cluster.address(0).rsplit_once(':').expect("host:port");
    let mut command = Command::new("python3");
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/independent_client.py"))
        .args([task, host, port, cluster.name(), &cluster.layout().k().to_string()])
        .args(cluster.layout().addresses());
    command
}

#[test]
fn a_client_written_from_the_specification_gets_on_with_dsmd() {
    let cluster = Cluster::start(2, 1 << 20);
    let output = python("check", &cluster).output().expect("python3 is installed");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}{errors}");
    assert!(output.status.success(), "{}:\n{text}{errors}", output.status);
    assert!(text.ends_with("all as docs/protocol.md says\n"));
}

#[test]
fn its_changes_take_effect_exactly_once_though_dsmd_is_killed() {
    let cluster = Cluster::start(1, 1 << 20);
    let mut client = python("count", &cluster).stdout(Stdio::piped()).spawn().expect("python3 is installed");
    let (mut kills, mut resumed) = (0, 0);
    for line in BufReader::new(client.stdout.take().expect("a pipe")).lines() {
        let line = line.expect("text");
        println!("{line}");
        if line.starts_with("counted to ") {
            cluster.restart(0);
            kills += 1;
        } else if let Some(times) = line.strip_prefix("the session was resumed ") {
            resumed = times.trim_end_matches(" times").parse().expect("a number");
        }
    }
    assert!(client.wait().expect("wait").success(), "the client is not content");
    assert_eq!(kills, 10);
    assert!(resumed > 0, "no kill came while requests were under way");
}
