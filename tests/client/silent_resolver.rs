//! A resolver that does not answer holds no call beyond its deadline, no part of a call that is for
//! another server, also one with a name, no client that knows an address from before, no descriptor,
//! and no child of `fork(2)`. Each test needs root, for a namespace in which the resolver is silent.

// The lint exempts #[test] functions, not the helpers that they call.
#![allow(clippy::unwrap_used)]

use dsm_client::ErrorKind;
use dsm_core::layout::Layout;
use dsm_core::net::{self, Resolution};
use dsm_core::protocol::Opcode;
use std::fmt::Write;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};
use support::clients::client_of;
use support::fake_server::FakeServer;
use support::wire::TEST_TIMEOUT;
use support::{is_error, namespace, own_process, wait_for};

const K: u64 = 4096;
const TIMEOUT: Duration = Duration::from_millis(200);

/// Much longer than any step takes, and shorter than the resolver's patience.
const LONG: Duration = Duration::from_secs(10);

/// The name has the form of one in the DNS, and no entry in /etc/hosts.
const NAME: &str = "node1.dsm.test:7411";

fn layout(second: &str) -> Layout {
    Layout::new("fake", K, vec![NAME.into(), second.into()]).unwrap()
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn a_call_ends_by_its_deadline_and_says_that_the_look_up_has_not_ended() {
    if !namespace::entered_with_network(
        module_path!(),
        "a_call_ends_by_its_deadline_and_says_that_the_look_up_has_not_ended",
    ) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let _silent = namespace::set_silent_resolver(folder.path());
    let client = client_of(layout("127.0.0.1:9")).with_timeout(TIMEOUT);
    // The calls after the first one find the look-up under way.
    for _ in 0..3 {
        let began = Instant::now();
        let error = client.write(0, b"x").unwrap_err();
        assert!((TIMEOUT..LONG).contains(&began.elapsed()), "{error}");
        assert!(is_error(&error, ErrorKind::Unavailable, 0), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("the look-up of its name has not ended"),
            "{text}"
        );
        let began = Instant::now();
        assert!(client.ping(0).is_err());
        assert!((TIMEOUT..LONG).contains(&began.elapsed()));
    }
    // What a master does with an agent.
    let began = Instant::now();
    let error = net::connect("node1.dsm.test:7421", TIMEOUT).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    assert!((TIMEOUT..LONG).contains(&began.elapsed()));
}

#[test]
fn a_server_that_starts_waits_for_all_names_together() {
    if !namespace::entered_with_network(
        module_path!(),
        "a_server_that_starts_waits_for_all_names_together",
    ) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let _silent = namespace::set_silent_resolver(folder.path());
    let mut map = "k = 4096\nn = 9\n[[server]]\naddress = \"127.0.0.1:7411\"\n".to_owned();
    for number in 1..9 {
        writeln!(map, "[[server]]\naddress = \"node{number}.dsm.test:7411\"").unwrap();
    }
    let path = folder.path().join("mcomp.cfg");
    std::fs::write(&path, map).unwrap();
    let config = dsm_config::Config::load(&path).unwrap();
    let began = Instant::now();
    assert_eq!(dsm_config::own_index(&config, None).unwrap(), 0);
    assert!(began.elapsed() < 2 * LONG, "{:?}", began.elapsed());
}

#[test]
fn the_part_of_a_call_for_another_server_is_not_delayed() {
    if !namespace::entered_with_network(
        module_path!(),
        "the_part_of_a_call_for_another_server_is_not_delayed",
    ) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let _silent = namespace::set_silent_resolver(folder.path());
    let layout = layout(&free_address());
    let server = FakeServer::at(&layout, 1);
    let client = client_of(layout).with_timeout(LONG);
    std::thread::scope(|scope| {
        let both = scope.spawn(|| {
            let outcome = client.write(K - 1, b"xy");
            (outcome, Instant::now())
        });
        wait_for("the other part", LONG / 2, || {
            server.executed(Opcode::Write) == 1
        });
        let executed = Instant::now();
        let (outcome, ended) = both.join().unwrap();
        assert!(is_error(&outcome.unwrap_err(), ErrorKind::Unavailable, 0));
        assert!(executed < ended, "it was executed while the other waited");
    });
    assert_eq!(client.read(K, 1).unwrap(), b"y");
}

#[test]
fn names_that_are_never_answered_do_not_delay_one_that_is() {
    const SILENT: usize = 40;
    if !namespace::entered_with_network(
        module_path!(),
        "names_that_are_never_answered_do_not_delay_one_that_is",
    ) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let _silent = namespace::set_silent_resolver(folder.path());
    namespace::set_hosts("127.0.0.1 known.dsm.test\n", folder.path());
    let mut addresses: Vec<_> = (0..SILENT)
        .map(|number| format!("silent{number}.dsm.test:7411"))
        .collect();
    addresses.push("known.dsm.test:7411".to_owned());
    let layout = Layout::new("fake", K, addresses).unwrap();
    let server = FakeServer::at(&layout, SILENT);
    let client = client_of(layout).with_timeout(LONG / 2);
    let whole = vec![7; (SILENT + 1) * usize::try_from(K).unwrap()];
    std::thread::scope(|scope| {
        let call = scope.spawn(|| client.write(0, &whole).unwrap_err());
        wait_for("the part of the server with a known name", LONG, || {
            server.executed(Opcode::Write) == 1 || call.is_finished()
        });
        assert_eq!(
            server.executed(Opcode::Write),
            1,
            "{}",
            call.join().unwrap()
        );
    });
}

#[test]
fn a_client_reconnects_to_an_address_from_before_when_the_resolver_answers_no_more() {
    if !namespace::entered_with_network(
        module_path!(),
        "a_client_reconnects_to_an_address_from_before_when_the_resolver_answers_no_more",
    ) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let hosts = "127.0.0.1 node1.dsm.test\n";
    namespace::set_hosts(hosts, folder.path());
    let layout = Layout::new("fake", K, vec![NAME.into()]).unwrap();
    let server = FakeServer::at(&layout, 0);
    let client = client_of(layout).with_timeout(LONG / 2);
    client.write(0, b"x").unwrap();
    let _silent = namespace::set_silent_resolver(folder.path());
    namespace::set_hosts("", folder.path());
    wait_for("the answer to become old", TEST_TIMEOUT, || {
        matches!(net::resolve(NAME), Resolution::Pending(_))
    });
    server.break_all();
    let outcome = client.write(1, b"y");
    // The fake server looks its own name up when it ends.
    namespace::set_hosts(hosts, folder.path());
    outcome.unwrap();
    assert_eq!(server.state().memory[..2], *b"xy");
}

#[test]
fn a_look_up_without_a_caller_holds_no_descriptor() {
    const NAMES: usize = 400;
    if !namespace::entered_with_network(
        module_path!(),
        "a_look_up_without_a_caller_holds_no_descriptor",
    ) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let _silent = namespace::set_silent_resolver(folder.path());
    let pending: Vec<_> = (0..NAMES)
        .map(|number| net::resolve(&format!("silent{number}.dsm.test:7411")))
        .collect();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open() > NAMES, "each caller has one to wait for");
    drop(pending);
    // Each thread that waits for the resolver has a socket, and a file while it begins.
    assert!(open() < NAMES / 2, "{}", open());
}

/// The deadline of the child's call: enough for its look-up to begin on a busy machine.
const CHILD_TIMEOUT: Duration = Duration::from_secs(1);

/// The end of a question to the DNS for the IPv4 address of a name: its type and its class.
const ADDRESS_QUESTION: &[u8] = &[0, 1, 0, 1];

/// Where the forking process writes how long the call of its child took.
const RESULT: &str = "DSM_TEST_RESULT";

/// Not a test by itself: a program that becomes a daemon while a thread of it looks a name up.
#[test]
fn forking_process() {
    let Some(result) = std::env::var_os(RESULT) else {
        return;
    };
    let client = client_of(layout("127.0.0.1:9"));
    let waiting = client.clone().with_timeout(LONG);
    std::thread::spawn(move || waiting.read(0, 1));
    // Its look-up shows that the name is being looked up.
    assert!(client.clone().with_timeout(TIMEOUT).read(0, 1).is_err());
    // The parent exits here.
    nix::unistd::daemon(true, true).unwrap();
    let began = Instant::now();
    let outcome = client.with_timeout(CHILD_TIMEOUT).read(0, 1);
    let took = began.elapsed();
    let result = Path::new(&result);
    let draft = result.with_extension("draft");
    std::fs::write(
        &draft,
        format!("{} {}", took.as_millis(), outcome.unwrap_err()),
    )
    .unwrap();
    std::fs::rename(draft, result).unwrap();
    std::process::exit(0);
}

#[test]
fn a_child_of_fork_does_not_hang_on_a_look_up_of_its_parent() {
    if !namespace::entered_with_network(
        module_path!(),
        "a_child_of_fork_does_not_hang_on_a_look_up_of_its_parent",
    ) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let silent = namespace::set_silent_resolver(folder.path());
    let result = folder.path().join("result");
    let mut forking = own_process::command(module_path!(), "forking_process");
    forking.env(RESULT, &result);
    assert!(forking.status().unwrap().success(), "the parent");
    wait_for("the child's call", TEST_TIMEOUT, || result.exists());
    let said = std::fs::read_to_string(result).unwrap();
    let (took, error) = said.split_once(' ').unwrap();
    let took = Duration::from_millis(took.parse().unwrap());
    assert!((CHILD_TIMEOUT..LONG).contains(&took), "{said}");
    assert!(error.contains("look-up"), "{said}");
    silent.set_nonblocking(true).unwrap();
    let mut question = [0; 512];
    let questions = std::iter::from_fn(|| {
        let length = silent.recv(&mut question).ok()?;
        Some(question[..length].ends_with(ADDRESS_QUESTION))
    });
    let asked = questions.filter(|is_for_an_address| *is_for_an_address);
    assert_eq!(asked.count(), 2, "the child asked too: {said}");
}
