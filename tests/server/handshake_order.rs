//! The hello comes first and only once; request ids increase.

use dsm_core::protocol::{Code, Extent, MemoryChange, Request};
use support::wire::{Wire, hello};
use support::{Cluster, client};

const K: u64 = 1 << 20;

#[test]
fn a_request_before_hello_is_refused_and_not_executed() {
    let cluster = Cluster::start(1, K);
    let write = MemoryChange::Write(Extent::new(0, 4, K).unwrap(), b"evil");
    for request in [Request::Ping(b""), Request::Status, write.into()] {
        let mut wire = Wire::connect(cluster.address(0));
        wire.ask(1, request)
            .assert_refused(Code::HelloExpected, &["hello"]);
        wire.assert_closed();
    }
    assert_eq!(client(&cluster).read(0, 4).unwrap(), [0; 4]);
}

#[test]
fn a_second_hello_is_refused() {
    let cluster = Cluster::start(1, K);
    let mut wire = Wire::greeted(cluster.layout(), 0);
    wire.send(&hello(cluster.layout(), 0));
    wire.reply().assert_refused(Code::HelloExpected, &["hello"]);
    wire.assert_closed();
}

#[test]
fn an_id_that_does_not_increase_is_refused_and_not_executed() {
    let cluster = Cluster::start(1, K);
    for second in [7, 6, 0] {
        let mut wire = Wire::greeted(cluster.layout(), 0);
        let extent = Extent::new(0, 4, K).unwrap();
        assert_eq!(
            wire.ask(7, MemoryChange::Write(extent, b"good")).code(),
            None
        );
        wire.ask(second, MemoryChange::Write(extent, b"evil"))
            .assert_refused(Code::BadSequence, &[&second.to_string()]);
        wire.assert_closed();
        assert_eq!(client(&cluster).read(0, 4).unwrap(), b"good");
    }
}
