//! A call ends by its deadline. Its error names the server, the reason, and whether the call may
//! have taken effect.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use dsm_client::{Error, ErrorKind};
use dsm_core::layout::Layout;
use dsm_core::protocol::Opcode;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use support::clients::client_of;
use support::fake_server;
use support::fake_server::{ServerFault, servers};
use support::own_process;
use support::wire::TEST_TIMEOUT;
use support::{Cluster, is_error};

const K: u64 = 1 << 20;
const TIMEOUT: Duration = Duration::from_millis(300);

/// Runs a call that must fail at its deadline, at most 500 ms late.
fn fails_at_deadline<T: std::fmt::Debug>(call: impl FnOnce() -> Result<T, Error>) -> Error {
    let start = Instant::now();
    let error = call().unwrap_err();
    let took = start.elapsed();
    assert!(
        (TIMEOUT..TIMEOUT + Duration::from_millis(500)).contains(&took),
        "{took:?}: {error}"
    );
    error
}

/// The address of a port that no process listens on.
fn dead_address() -> String {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}

#[test]
fn a_server_that_stalls_leaves_a_change_unknown_and_a_read_unavailable() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout).with_timeout(TIMEOUT);
    servers[0].fault(0, ServerFault::Stall);
    let error = fails_at_deadline(|| client.write(0, b"x"));
    assert!(
        is_error(&error, ErrorKind::OutcomeUnknown, 0)
            && error.to_string().contains("whether the write took effect"),
        "{error}"
    );
    servers[0].fault(0, ServerFault::Stall);
    let error = fails_at_deadline(|| client.read(0, 1));
    assert!(is_error(&error, ErrorKind::Unavailable, 0), "{error}");
    assert_eq!(
        client.read(0, 1).unwrap(),
        b"x",
        "the next call uses a new connection"
    );
    let (hellos, resumed) = {
        let state = servers[0].state();
        (state.hellos, state.resumed)
    };
    assert_eq!(
        (hellos, resumed),
        (4, 1),
        "three sessions, and one hello that ends the one of the write"
    );
}

#[test]
fn a_server_that_accepts_connections_and_never_replies_is_unavailable() {
    let (layout, servers) = servers(1, K);
    servers[0].state().deaf = true;
    let client = client_of(layout).with_timeout(TIMEOUT);
    let error = fails_at_deadline(|| client.write(0, b"x"));
    assert!(
        is_error(&error, ErrorKind::Unavailable, 0),
        "nothing was sent: {error}"
    );
    assert!(error.to_string().contains("hello"), "{error}");
}

#[test]
fn the_error_of_a_dead_server_names_it_and_the_reason() {
    let dead = dead_address();
    let (layout, _servers) = servers(2, K);
    let addresses = [layout.addresses(), std::slice::from_ref(&dead)].concat();
    let client = client_of(Layout::new("fake", K, addresses).unwrap()).with_timeout(TIMEOUT);
    let error = fails_at_deadline(|| client.write(2 * K, b"x"));
    assert!(is_error(&error, ErrorKind::Unavailable, 2), "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("server 2 ({dead}) ")) && text.contains("refused"),
        "{text}"
    );
    let start = Instant::now();
    assert!(is_error(
        &client.ping(2).unwrap_err(),
        ErrorKind::Unavailable,
        2
    ));
    assert!(is_error(
        &client.status(2).unwrap_err(),
        ErrorKind::Unavailable,
        2
    ));
    assert!(start.elapsed() < TIMEOUT, "one attempt only");
    assert!(is_error(
        &client.ping(3).unwrap_err(),
        ErrorKind::NoSuchServer,
        3
    ));
    assert!(client.status(usize::MAX).is_err());
}

/// That this process has no descriptor for a socket says nothing about the server.
#[test]
fn a_status_waits_for_a_descriptor_of_this_process() {
    if !own_process::entered(
        module_path!(),
        "a_status_waits_for_a_descriptor_of_this_process",
    ) {
        return;
    }
    let cluster = Cluster::builder().k(K).start();
    let client = client_of(cluster.layout().clone());
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let in_use = std::fs::File::open("/dev/null").unwrap();
    setrlimit(
        Resource::RLIMIT_NOFILE,
        u64::try_from(in_use.as_raw_fd()).unwrap(),
        hard,
    )
    .unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        });
        assert_eq!(client.status(0).unwrap().index, 0);
    });
}

#[test]
fn a_host_name_that_does_not_exist_is_reported() {
    let layout = Layout::new("fake", K, vec!["does-not-exist.invalid:7411".into()]).unwrap();
    let error = client_of(layout).ping(0).unwrap_err();
    assert!(error.to_string().contains("not resolved"), "{error}");
}

#[test]
fn a_server_that_comes_back_within_the_deadline_is_found() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let layout = Layout::new("fake", K, vec![listener.local_addr().unwrap().to_string()]).unwrap();
    drop(listener);
    let client = client_of(layout.clone()).with_timeout(Duration::from_secs(20));
    std::thread::scope(|scope| {
        let call = scope.spawn(|| client.fetch_add(0, 1));
        std::thread::sleep(Duration::from_millis(200));
        let _server = fake_server::FakeServer::at(&layout, 0);
        assert_eq!(call.join().unwrap().unwrap(), 0);
    });
}

#[test]
fn one_stalled_server_of_three_leaves_the_connections_to_the_others_open() {
    let (layout, servers) = servers(3, K);
    let client = client_of(layout).with_timeout(TIMEOUT);
    // It shares the connections, and has the time that a busy machine needs for the whole memory.
    let unhurried = client.clone().with_timeout(TEST_TIMEOUT);
    let data = vec![7; 3 * K as usize];
    unhurried.write(0, &data).unwrap();
    for _ in 0..3 {
        servers[1].fault(0, ServerFault::Stall);
        let error = fails_at_deadline(|| client.read(0, 3 * K));
        assert_eq!(error.server(), Some(1.into()), "{error}");
    }
    assert!(unhurried.read(0, 3 * K).unwrap() == data);
    assert_eq!(
        [0, 1, 2].map(|index: usize| servers[index].state().hellos),
        [1, 4, 1],
        "the connections to the other servers were kept"
    );
    assert_eq!(servers[0].executed(Opcode::Read), 4);
}

#[test]
fn submitting_to_a_full_pipeline_of_a_stalled_server_ends_by_the_deadline() {
    let (layout, servers) = servers(2, K);
    let client = client_of(layout).with_timeout(TIMEOUT);
    servers[0].fault(10, ServerFault::Stall);
    let mut pipeline = client.pipeline();
    let mut submitted = 0;
    let error = fails_at_deadline(|| {
        for _ in 0..10_000 {
            pipeline.fetch_add(0, 1)?;
            submitted += 1;
        }
        Ok(())
    });
    assert!(
        is_error(&error, ErrorKind::Unavailable, 0),
        "the request that was not submitted: {error}"
    );
    assert!(submitted < 200, "{submitted} submitted");
    assert_eq!(pipeline.uncollected(), submitted);
    pipeline.fetch_add(K, 5).unwrap();
    let outcomes: Vec<_> = pipeline.by_ref().collect();
    assert!(outcomes[..10].iter().all(Result::is_ok) && outcomes[submitted].is_ok());
    let unknown = |outcome: &&Result<_, _>| {
        outcome
            .as_ref()
            .is_err_and(|error| is_error(error, ErrorKind::OutcomeUnknown, 0))
    };
    assert_eq!(
        outcomes.iter().filter(unknown).count(),
        64,
        "the requests that were sent"
    );
    assert_eq!(outcomes.len(), submitted + 1);
    assert_eq!(pipeline.count(), 0);
    assert_eq!(client.fetch_add(0, 1).unwrap(), 11);
}

#[test]
fn a_pipeline_reports_without_waiting_whether_the_next_outcome_is_ready() {
    let (layout, servers) = servers(1, K);
    let client = client_of(layout).with_timeout(TIMEOUT);
    servers[0].fault(0, ServerFault::Stall);
    let mut pipeline = client.pipeline();
    assert!(!pipeline.is_next_ready(), "nothing was submitted");
    for address in 0..3 {
        pipeline.read(address, 1).unwrap();
    }
    assert!(!pipeline.is_next_ready(), "no reply has arrived");
    fails_at_deadline(|| pipeline.next().unwrap());
    // All requests in flight fail together.
    let start = Instant::now();
    while pipeline.is_next_ready() {
        assert!(pipeline.next().unwrap().is_err());
    }
    assert!(start.elapsed() < TIMEOUT && pipeline.uncollected() == 0);
}
