//! A client whose mcomp.cfg differs from the server's is refused, and both sides say which field
//! differs.

// The lint exempts test functions, but not their helpers.
#![allow(clippy::unwrap_used)]

use dsm_client::ErrorKind;
use dsm_config::Config;
use dsm_core::layout::MAX_LAYOUT_TEXT;
use dsm_core::protocol::{Code, HelloRequest, MAX_HELLO, Request};
use serde_json::json;
use std::fmt::Write as _;
use std::time::{Duration, Instant};
use support::messages::FakeMaster;
use support::wire::{TEST_TIMEOUT, Wire, encoded};
use support::{Cluster, client, is_error, wait_for};
use zerocopy::IntoBytes;

const K: u64 = 1 << 20;

/// Reads with a changed mcomp.cfg. The messages of both sides must contain each of `words`, and
/// that of the client must name the server.
fn assert_both_name(cluster: &Cluster, change: impl Fn(String) -> String, words: &[&str]) {
    let text = std::fs::read_to_string(cluster.config_path()).unwrap();
    let changed = change(text.clone());
    assert_ne!(changed, text, "the change has no effect");
    let config = Config::parse(&changed, &cluster.config_path()).unwrap();
    let error = support::client_of(config.layout).read(0, 8).unwrap_err();
    assert!(is_error(&error, ErrorKind::LayoutDiffers, 0), "{error:?}");
    let said = error.to_string();
    println!("the client says: {said}");
    assert!(
        said.contains("server 0") && said.contains(cluster.address(0)),
        "{said:?} does not name the server"
    );
    for word in words {
        assert!(
            said.contains(word),
            "the client's {said:?} does not say {word:?}"
        );
        let logged = || cluster.stderr(0).contains(word);
        wait_for(
            &format!("the server's log says {word:?}"),
            TEST_TIMEOUT,
            logged,
        );
    }
    let log = cluster.stderr(0);
    println!("the server says: {}", log.lines().last().unwrap_or(""));
}

#[test]
fn another_k_is_named_by_both_sides() {
    let cluster = Cluster::start(1, K);
    let change = |text: String| text.replace("k = 1048576", "k = 2097152");
    assert_both_name(&cluster, change, &["k:", "1048576", "2097152"]);
    client(&cluster)
        .write(0, b"a matching layout is served")
        .unwrap();
}

#[test]
fn another_n_is_named_by_both_sides() {
    let cluster = Cluster::start(1, K);
    let change =
        |text: String| text.replace("n = 1", "n = 2") + "\n[[server]]\naddress = \"127.0.0.1:9\"\n";
    assert_both_name(&cluster, change, &["n:", "server.1", "127.0.0.1:9"]);
}

#[test]
fn another_address_is_named_by_both_sides() {
    let cluster = Cluster::start(2, K);
    let other = "127.0.0.1:9";
    let change = |text: String| text.replace(cluster.address(1), other);
    assert_both_name(&cluster, change, &["server.1", cluster.address(1), other]);
}

#[test]
fn another_name_is_named_by_both_sides() {
    let cluster = Cluster::start(1, K);
    let change = |text: String| text.replace(cluster.name(), "another-system");
    assert_both_name(
        &cluster,
        change,
        &["name:", cluster.name(), "another-system"],
    );
}

#[test]
fn a_map_with_swapped_addresses_is_named_by_the_client() {
    // The file of the servers has the two addresses swapped, so that each server listens on the
    // address of the other.
    let cluster = Cluster::builder().servers(2).k(K).create();
    let path = cluster.config_path();
    let text = std::fs::read_to_string(&path).unwrap();
    let (first, second) = (cluster.address(0).to_owned(), cluster.address(1).to_owned());
    let crossed = text
        .replace(&first, "FIRST")
        .replace(&second, &first)
        .replace("FIRST", &second);
    std::fs::write(&path, crossed).unwrap();
    cluster.spawn_server(0);
    cluster.spawn_server(1);
    cluster.wait_until_ready(0);
    cluster.wait_until_ready(1);
    let config = Config::parse(&text, &path).unwrap();
    let error = support::client_of(config.layout)
        .with_timeout(Duration::from_secs(5))
        .read(0, 8)
        .unwrap_err();
    assert!(is_error(&error, ErrorKind::LayoutDiffers, 0), "{error:?}");
    let said = error.to_string();
    assert!(
        said.contains("server.0") && said.contains(&first) && said.contains(&second),
        "{said:?}"
    );
}

/// A text of `length` bytes with as many different fields as fit.
fn many_fields(length: usize) -> String {
    let mut text = String::new();
    while text.len() < length {
        let at = text.len();
        writeln!(text, "{at:x}").unwrap();
    }
    text.truncate(length);
    text
}

/// A hello with this layout text.
fn hello(text: &str) -> Vec<u8> {
    let payload = [
        HelloRequest::new(0, [1; 16], 0, false).as_bytes(),
        text.as_bytes(),
    ]
    .concat();
    encoded(0, Request::Hello(&payload))
}

/// The time limit for eight such texts together, on a busy machine. A comparison of every field
/// with all others would take longer for one alone.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_hello_with_many_wrong_fields_is_refused_quickly() {
    let cluster = Cluster::start(1, K);
    let began = Instant::now();
    let ask = |text: &str| {
        let mut wire = Wire::connect(cluster.address(0));
        wire.send(&hello(text));
        wire
    };
    let texts = [160_000, MAX_LAYOUT_TEXT, 160_000, MAX_LAYOUT_TEXT].map(many_fields);
    let mut wires = texts.each_ref().map(|text| ask(text));
    client(&cluster)
        .write(0, b"other clients are served")
        .unwrap();
    for wire in &mut wires {
        let reply = wire.reply();
        reply.assert_refused(Code::LayoutDiffers, &["1027"]);
        assert!(reply.text().len() < 1000, "{}", reply.text());
        wire.assert_closed();
    }
    let text: String = (0..1000)
        .map(|line| format!("field.{line}=value\n"))
        .collect();
    let mut wire = ask(&text);
    wire.reply().assert_refused(
        Code::LayoutDiffers,
        &["name: ours", "field.0: ours nothing", "and 984 more"],
    );
    for length in [MAX_LAYOUT_TEXT + 1, 950_000] {
        let mut wire = Wire::connect(cluster.address(0));
        // The server may refuse before it has received everything. The unread bytes then reset the
        // connection, which can destroy the refusal.
        let _ = wire.try_send(&hello(&many_fields(length)));
        if let Ok(reply) = wire.try_reply() {
            reply.assert_refused(Code::BadFrame, &[&MAX_HELLO.to_string()]);
        }
        wire.assert_closed();
    }
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let mut wire = ask("\x1b]0;owned\x07=\x1b[2J\u{9b}31m\u{202e}\nname=x\x1b[31m\r\n");
    let said = wire.reply().text();
    let log = cluster.stderr(0);
    for text in [said, log.clone()] {
        assert!(
            text.chars()
                .all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'),
            "{text:?}"
        );
    }
    // Eight refusals of at most 512 bytes, each with the rest of its log line.
    assert!(
        log.len() < 8 * 700 + 1000,
        "{} bytes of log:\n{log}",
        log.len()
    );
}

#[test]
fn a_hello_to_an_agent_with_many_wrong_fields_is_refused_quickly() {
    let cluster = Cluster::start(1, K);
    cluster.start_agent(0);
    let began = Instant::now();
    let cases = [
        (160_000, "layout"),
        (MAX_LAYOUT_TEXT, "layout"),
        (MAX_LAYOUT_TEXT + 1, "layout"),
        (900_000, "protocol"),
    ];
    for (length, reason) in cases {
        let mut caller = FakeMaster::connect(&cluster, 0);
        let answer = caller.ask(json!({"hello": {"layout": many_fields(length), "index": 0}}));
        assert_eq!(answer["refused"]["reason"], reason, "{answer}");
        assert!(
            answer["refused"]["message"].as_str().unwrap().len() < 1000,
            "{answer}"
        );
    }
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}
