//! A client whose mcomp.cfg differs from the server's is refused, and both sides say which field differs.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

mod support;

use dsm::Error;
use dsm::config::Config;
use std::time::Duration;
use support::wire::PATIENCE;
use support::{Cluster, client, wait_for};

const K: u64 = 1 << 20;

/// Asks with a changed mcomp.cfg; both sides must say each of `words`, and `server` must be named.
fn assert_both_name(cluster: &Cluster, change: impl Fn(String) -> String, words: &[&str]) {
    let text = std::fs::read_to_string(cluster.config_path()).unwrap();
    let changed = change(text.clone());
    assert_ne!(changed, text, "the change changes nothing");
    let config = Config::parse(&changed, &cluster.config_path()).unwrap();
    let error = support::client_of(config.layout).read(0, 8).unwrap_err();
    assert!(matches!(error, Error::LayoutDiffers { server: 0, .. }), "{error:?}");
    let said = error.to_string();
    println!("the client says: {said}");
    assert!(said.contains("server 0") && said.contains(cluster.address(0)), "{said:?} does not name the server");
    for word in words {
        assert!(said.contains(word), "the client's {said:?} does not say {word:?}");
        let logged = || cluster.stderr(0).contains(word);
        wait_for(&format!("the server's log says {word:?}"), PATIENCE, logged);
    }
    let log = cluster.stderr(0);
    println!("the server says: {}", log.lines().last().unwrap_or(""));
}

#[test]
fn another_k_is_named_by_both_sides() {
    let cluster = Cluster::start(1, K);
    let change = |text: String| text.replace("k = 1048576", "k = 2097152");
    assert_both_name(&cluster, change, &["k:", "1048576", "2097152"]);
    client(&cluster).write(0, b"the server serves those that fit").unwrap();
}

#[test]
fn another_n_is_named_by_both_sides() {
    let cluster = Cluster::start(1, K);
    let change = |text: String| text.replace("n = 1", "n = 2") + "\n[[server]]\naddress = \"127.0.0.1:9\"\n";
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
    assert_both_name(&cluster, change, &["name:", cluster.name(), "another-system"]);
}

#[test]
fn a_map_that_leads_to_the_wrong_server_is_named_by_the_client() {
    // The servers' own file has the addresses the other way round, so that each answers at the other's place.
    let cluster = Cluster::builder().servers(2).k(K).create();
    let path = cluster.config_path();
    let text = std::fs::read_to_string(&path).unwrap();
    let (first, second) = (cluster.address(0).to_owned(), cluster.address(1).to_owned());
    let crossed = text.replace(&first, "FIRST").replace(&second, &first).replace("FIRST", &second);
    std::fs::write(&path, crossed).unwrap();
    cluster.spawn_server(0);
    cluster.spawn_server(1);
    cluster.wait_until_ready(0);
    cluster.wait_until_ready(1);
    let config = Config::parse(&text, &path).unwrap();
    let error = support::client_of(config.layout).with_timeout(Duration::from_secs(5)).read(0, 8).unwrap_err();
    assert!(matches!(error, Error::LayoutDiffers { server: 0, .. }), "{error:?}");
    let said = error.to_string();
    assert!(said.contains("server.0") && said.contains(&first) && said.contains(&second), "{said:?}");
}
