//! A client in another language, written from docs/protocol.md alone, gets on with a running server.

mod support;

use std::process::Command;
use support::Cluster;

#[test]
fn a_client_written_from_the_specification_gets_on_with_dsmd() {
    let cluster = Cluster::start(2, 1 << 20);
    let (host, port) = cluster.address(0).rsplit_once(':').unwrap();
    let output = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/independent_client.py"))
        .args([host, port, cluster.name(), &cluster.layout().k().to_string()])
        .args(cluster.layout().addresses())
        .output()
        .expect("python3 is installed");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{text}{errors}");
    assert!(output.status.success(), "{}:\n{text}{errors}", output.status);
    assert!(text.ends_with("all as docs/protocol.md says\n"));
}
