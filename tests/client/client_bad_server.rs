//! A client checks everything that a server sends before it uses it.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use dsm_client::{Effect, Error, ErrorKind};
use dsm_core::layout::Layout;
use dsm_core::protocol::{Code, Opcode};
use support::clients::client_of;
use support::dsmctl;
use support::fake_server::{STATUS, ServerFault, servers};
use support::is_error;

const K: u64 = 4 << 20;

#[test]
fn a_malformed_reply_is_an_error_and_the_next_call_uses_a_new_connection() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout);
    for fault in [
        ServerFault::WrongMagic,
        ServerFault::WrongId,
        ServerFault::WrongOpcode,
        ServerFault::TooLong,
        ServerFault::Endless,
        ServerFault::UnknownCode,
    ] {
        servers[0].fault(0, fault);
        let error = client.read(0, 100).unwrap_err();
        assert!(
            is_error(&error, ErrorKind::Protocol, 0),
            "{fault:?}: {error}"
        );
        assert!(error.to_string().contains(&servers[0].address), "{error}");
        assert_eq!(client.read(0, 100).unwrap(), [0; 100]);
    }
}

#[test]
fn a_ping_that_comes_back_changed_is_an_error() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout);
    servers[0].fault(0, ServerFault::OtherData);
    let error = client.ping(0).unwrap_err();
    assert!(
        is_error(&error, ErrorKind::Protocol, 0) && error.reason().contains("came back changed"),
        "{error}"
    );
    client.ping(0).unwrap();
}

#[test]
fn feature_bits_that_the_client_does_not_know_change_nothing() {
    let (layout, servers) = servers(2, K);
    servers[0].state().features = u32::MAX;
    servers[1].state().features = 1 << 31;
    let client = client_of(layout);
    client.write(K - 2, b"both").unwrap();
    assert_eq!(client.read(K - 2, 4).unwrap(), b"both");
    assert_eq!(client.fetch_add(K + 8, 5), Ok(0));
    client.ping(0).unwrap();
    // Hello again, which resumes the session.
    servers[1].break_all();
    assert_eq!(client.fetch_add(K + 8, 1), Ok(5));
    assert_eq!(servers[1].state().resumed, 1);
}

fn is_protocol(outcome: &Result<u64, Error>) -> bool {
    outcome
        .as_ref()
        .is_err_and(|error| error.kind() == ErrorKind::Protocol)
}

#[test]
fn a_duplicate_reply_answers_no_other_request() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout);
    servers[0].fault(0, ServerFault::Twice);
    // The duplicate arrives with the first reply, or while the next request waits, whose id
    // differs.
    let first = client.fetch_add(0, 1);
    let second = client.fetch_add(0, 1);
    assert!(first == Ok(0) || is_protocol(&first), "{first:?}");
    assert!(second == Ok(1) || is_protocol(&second), "{second:?}");
}

#[test]
fn a_refused_part_leaves_the_connection_usable() {
    let (layout, servers) = servers(2, K);
    let client = client_of(layout);
    servers[0].fault(1, ServerFault::Refuse(Code::OutOfRange));
    let error = client.fill(0, 2 * K, 1).unwrap_err();
    assert!(
        is_error(&error, ErrorKind::Refused, 0) && error.refusal() == Some(Code::OutOfRange),
        "{error}"
    );
    assert_eq!(
        servers[1].executed(Opcode::Fill),
        4,
        "the other server's part is done"
    );
    assert_eq!(client.read(K, 1).unwrap(), [1]);
    assert_eq!(client.fetch_add(0, 1).unwrap(), 0x0101_0101_0101_0101);
    assert_eq!(
        [0, 1].map(|index: usize| servers[index].state().hellos),
        [1, 1]
    );
}

#[test]
fn a_permanent_refusal_is_returned_without_a_retry() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout);
    for code in [Code::Version, Code::WrongServer] {
        servers[0].state().refuse_hello = (1, Some(code));
        let error = client.read(0, 1).unwrap_err();
        assert!(
            is_error(&error, ErrorKind::Refused, 0) && error.refusal() == Some(code),
            "{error}"
        );
    }
    servers[0].fault(0, ServerFault::Refuse(Code::BadSequence));
    assert_eq!(
        client.fetch_add(0, 1).unwrap_err().kind(),
        ErrorKind::Refused
    );
    assert_eq!(client.fetch_add(0, 1), Ok(0));
}

#[test]
fn a_change_of_which_one_part_was_carried_out_may_have_had_an_effect_and_a_refused_one_has_none() {
    let (layout, servers) = servers(2, K);
    let client = client_of(layout);
    let refused = |call: &dyn Fn() -> Result<(), Error>| {
        servers[1].fault(0, ServerFault::Refuse(Code::OutOfRange));
        let error = call().unwrap_err();
        assert!(is_error(&error, ErrorKind::Refused, 1), "{error}");
        error.effect()
    };
    assert_eq!(refused(&|| client.write(K, b"x")), Effect::None);
    assert_eq!(refused(&|| client.read(K - 1, 2).map(drop)), Effect::None);
    assert_eq!(refused(&|| client.write(K - 1, b"xx")), Effect::Possible);
    assert_eq!(client.read(K - 1, 2).unwrap(), b"x\0");
    // The first of two requests to one server.
    assert_eq!(refused(&|| client.fill(K, 2 << 20, 1)), Effect::Possible);
}

#[test]
fn a_reconnect_that_is_refused_for_good_keeps_its_kind_while_a_change_is_in_doubt() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout);
    for (code, kind) in [
        (Code::LayoutDiffers, ErrorKind::LayoutDiffers),
        (Code::Version, ErrorKind::Refused),
        (Code::WrongServer, ErrorKind::Refused),
        (Code::Restoring, ErrorKind::Refused),
    ] {
        client.read(0, 1).unwrap();
        servers[0].state().refuse_hello = (1, Some(code));
        servers[0].fault(0, ServerFault::BreakAfter);
        let error = client.fetch_add(0, 1).unwrap_err();
        assert!(is_error(&error, kind, 0), "{error}");
        assert_eq!(
            (error.refusal(), error.effect(), error.is_retryable()),
            (Some(code), Effect::Possible, false)
        );
        assert!(
            error
                .to_string()
                .ends_with("It is unknown whether the fetch-add took effect"),
            "{error}"
        );
    }
    assert_eq!(client.fetch_add(0, 0), Ok(4));
}

#[test]
fn a_layout_that_differs_is_explained() {
    let (layout, _servers) = servers(1, K);
    let other = Layout::new("fake", 2 * K, layout.addresses().to_vec()).unwrap();
    let error = client_of(other).write(0, b"x").unwrap_err();
    assert!(is_error(&error, ErrorKind::LayoutDiffers, 0), "{error}");
    assert!(
        error
            .reason()
            .contains(&format!("k: ours {K}, theirs {}", 2 * K)),
        "{error}"
    );
}

/// What a malicious server sends to an administrator's terminal: control sequences for a new title,
/// for colours and for a cleared screen, a line that looks like one of dsmctl's own, the C1 form of
/// an escape sequence, and text that is displayed backwards.
const EVIL: &str =
    "\x1b]0;owned\x07 \x1b[31m \x1b[2J\r\ndsmctl: all is well\u{7f} \u{9b}31m \u{202e}gpj";

/// Fails if the output has a control character, or a line that the server has begun.
#[track_caller]
fn assert_harmless(what: &str, run: &dsmctl::Run) {
    for text in [run.text(), &run.stderr] {
        assert!(
            text.chars()
                .all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'),
            "{what}: {text:?}"
        );
        assert!(
            !text
                .lines()
                .any(|line| line.starts_with("dsmctl: all is well")),
            "{what}: {text:?}"
        );
        assert!(text.len() < 10_000, "{what}: {} bytes", text.len());
    }
}

#[test]
fn dsmctl_prints_no_control_character_that_a_server_sends() {
    let (layout, servers) = servers(1, K);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("mcomp.cfg");
    let address = &layout.addresses()[0];
    let text = format!(
        "name = \"fake\"\nk = {K}\nn = 1\n[[server]]\naddress = {address:?}\n[client]\nlocal = \"never\"\n"
    );
    std::fs::write(&config, text).unwrap();
    servers[0].state().refusal = EVIL.repeat(60);
    let run = |line: &str| dsmctl::run(folder.path(), &config, line, b"");
    let read = "read 0 8 --timeout 300ms";
    for &code in Code::ALL {
        for line in [
            read,
            "--json read 0 8 --timeout 300ms",
            "status",
            "status --json",
            "ping",
        ] {
            servers[0].state().refuse_hello = (u32::MAX, Some(code));
            let ended = run(line);
            assert!(
                ![0, 64].contains(&ended.code),
                "{line}: {code:?}: {}",
                ended.stderr
            );
            assert_harmless(&format!("{line}: {code:?}"), &ended);
        }
    }
    servers[0].state().refuse_hello = (0, None);
    let evil = serde_json::Value::from(EVIL).to_string();
    let assert_status_harmless = |status: String| {
        servers[0].state().status = status;
        for line in ["status", "status --json", "status --wide"] {
            let ended = run(line);
            assert_harmless(&format!("{line}: {:?}", servers[0].state().status), &ended);
        }
    };
    for text in [
        "\"0.1.0\"",
        "\"a:1\"",
        "\"6f1d2a9c03b7e458\"",
        "\"in use\"",
        "\"off\"",
        "\"read\"",
        "86400",
    ] {
        assert!(STATUS.contains(text), "{text}");
        assert_status_harmless(STATUS.replace(text, &evil));
    }
    assert_status_harmless(STATUS.replace(
        "\"in use\"",
        &serde_json::Value::from(EVIL.repeat(1000)).to_string(),
    ));
    for fault in [
        ServerFault::UnknownCode,
        ServerFault::Refuse(Code::OutOfRange),
    ] {
        servers[0].fault(0, fault);
        let ended = run(read);
        assert_harmless(&format!("{fault:?}"), &ended);
        println!(
            "{fault:?}: {}",
            ended.stderr.chars().take(200).collect::<String>()
        );
        assert!(ended.stderr.contains("\\u{1b}]0;owned"), "{}", ended.stderr);
    }
}
