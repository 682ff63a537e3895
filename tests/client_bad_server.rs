//! Nothing from a server is believed before it is checked.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

#[path = "support/clients.rs"]
mod clients;
#[path = "support/fake_server.rs"]
mod fake_server;

use clients::client_of;
use dsm::Error;
use dsm::layout::Layout;
use dsm::protocol::{Code, Opcode};
use fake_server::{Fault, servers};

const K: u64 = 4 << 20;

#[test]
fn a_reply_that_does_not_fit_is_an_error_and_the_next_call_starts_anew() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout);
    for fault in
        [Fault::WrongMagic, Fault::WrongId, Fault::WrongOpcode, Fault::TooLong, Fault::Endless, Fault::UnknownCode]
    {
        servers[0].fault(0, fault);
        let error = client.read(0, 100).unwrap_err();
        assert!(matches!(error, Error::Protocol { server: 0, .. }), "{fault:?}: {error}");
        assert!(error.to_string().contains(&servers[0].address), "{error}");
        assert_eq!(client.read(0, 100).unwrap(), [0; 100]);
    }
}

#[test]
fn a_reply_that_nobody_asked_for_answers_nothing() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout);
    servers[0].fault(0, Fault::Twice);
    // The second reply comes with the first, or finds the next request, whose id it does not have.
    let first = client.fetch_add(0, 1);
    let second = client.fetch_add(0, 1);
    assert!(first == Ok(0) || matches!(first, Err(Error::Protocol { .. })), "{first:?}");
    assert!(second == Ok(1) || matches!(second, Err(Error::Protocol { .. })), "{second:?}");
}

#[test]
fn a_refused_part_leaves_the_connection_in_order() {
    let (layout, servers) = servers(2, K);
    let client = client_of(layout);
    servers[0].fault(1, Fault::Refuse(Code::OutOfRange));
    let error = client.fill(0, 2 * K, 1).unwrap_err();
    assert!(matches!(&error, Error::Refused { server: 0, refusal, .. } if refusal.code == Code::OutOfRange), "{error}");
    assert_eq!(servers[1].executed(Opcode::Fill), 4, "the other server's part is done");
    assert_eq!(client.read(K, 1).unwrap(), [1]);
    assert_eq!(client.fetch_add(0, 1).unwrap(), 0x0101_0101_0101_0101);
    assert_eq!([0, 1].map(|index: usize| servers[index].state().hellos), [1, 1]);
}

#[test]
fn a_refusal_that_ends_the_connection_for_good_is_told_at_once() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout);
    for code in [Code::Version, Code::WrongServer] {
        servers[0].state().refuse_hello = (1, Some(code));
        let error = client.read(0, 1).unwrap_err();
        assert!(matches!(&error, Error::Refused { server: 0, refusal, .. } if refusal.code == code), "{error}");
    }
    servers[0].fault(0, Fault::Refuse(Code::BadSequence));
    assert!(matches!(client.fetch_add(0, 1), Err(Error::Refused { .. })));
    assert_eq!(client.fetch_add(0, 1), Ok(0));
}

#[test]
fn a_layout_that_differs_is_explained() {
    let (layout, _servers) = servers(1, K);
    let other = Layout::new("fake", 2 * K, layout.addresses().to_vec()).unwrap();
    let error = client_of(other).write(0, b"x").unwrap_err();
    let Error::LayoutDiffers { server: 0, message, .. } = &error else { panic!("{error}") };
    assert!(message.contains(&format!("k: ours {K}, theirs {}", 2 * K)), "{message}");
}
