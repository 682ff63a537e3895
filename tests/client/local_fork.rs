//! A child of `fork(2)` uses none of its parent's resources: others notice the parent's death while
//! the child lives, and the child releases nothing that its parent holds, or that another process
//! has taken over since.

// The lint exempts #[test] functions, not the helpers that they call.
#![allow(clippy::unwrap_used)]

use dsm_client::{Client, DataPath, ErrorKind, Reply};
use dsm_config::{Config, LocalAccess};
use dsm_core::segment::Segment;
use support::restores::TEST_TIMEOUT;
use support::{Cluster, client, own_process, wait_for};

const K: u64 = 1 << 20;

/// The addresses of words by which the child and the test synchronize.
const CHILD_IS_READY: u64 = 8;
const DROP_CLIENTS: u64 = 16;
const DROPPED: u64 = 24;

/// Not a test by itself: a program that uses the memory and then becomes a daemon: its child
/// continues, and the parent exits.
#[test]
fn forking_process() {
    if std::env::var_os("FORKING").is_none() {
        return;
    }
    let config = Config::load(&Config::find(None)).unwrap();
    let client = Client::new(&config);
    client.write(0, b"parent").unwrap();
    assert_eq!(client.data_path(0).unwrap(), DataPath::Local);
    // Opens a connection, which stays idle and belongs to the parent too.
    client.status(0).unwrap();
    let (before, mut pipeline) = (client.clone(), client.pipeline());
    pipeline.write(100, b"x").unwrap();

    // The parent exits here, without dropping anything.
    nix::unistd::daemon(true, true).unwrap();
    assert_eq!(client.data_path(0).unwrap(), DataPath::Tcp);
    assert_eq!(client.read(0, 6).unwrap(), b"parent");
    client.swap(CHILD_IS_READY, 1).unwrap();
    wait_for("the command to drop the clients", TEST_TIMEOUT, || {
        before.read(DROP_CLIENTS, 1).unwrap() == [1]
    });
    drop((pipeline, before, client));
    // A client that the child makes works like any other.
    let own = Client::new(&config);
    own.with_local(LocalAccess::Never).swap(DROPPED, 1).unwrap();
    std::process::exit(0);
}

/// Not a test by itself: a program that goes by TCP alone, to a server without a host name, and then
/// becomes a daemon.
#[test]
fn forking_process_without_shared_memory() {
    if std::env::var_os("FORKING").is_none() {
        return;
    }
    let config = Config::load(&Config::find(None)).unwrap();
    let client = Client::new(&config).with_local(LocalAccess::Never);
    // Each connection has a session, and this one stays open in the parent and in the child.
    let mut pipeline = client.pipeline();
    pipeline.read(0, 1).unwrap();
    pipeline.next().unwrap().unwrap();
    // Sent at once, now that there is a connection.
    pipeline.write(100, b"x").unwrap();
    let before = client.status(0).unwrap().sessions.used;
    nix::unistd::daemon(true, true).unwrap();
    let sessions = client.status(0).unwrap().sessions.used - before;
    // The reply belongs to the parent.
    let error = pipeline.next().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    pipeline.write(100, b"y").unwrap();
    assert_eq!(pipeline.next().unwrap().unwrap(), Reply::Done);
    client.write(0, &sessions.to_le_bytes()).unwrap();
    client.swap(CHILD_IS_READY, 1).unwrap();
    std::process::exit(0);
}

#[test]
fn a_forked_child_opens_a_connection_although_its_parent_used_no_shared_memory() {
    let cluster = Cluster::builder().k(K).start();
    let remote = client(&cluster);
    // Its session is there before those of the program are counted.
    remote.read(0, 1).unwrap();
    let mut forking = own_process::command(module_path!(), "forking_process_without_shared_memory");
    forking
        .env("FORKING", "1")
        .env("DSM_CONFIG", cluster.config_path());
    assert!(forking.status().unwrap().success(), "the parent");
    wait_for("the child to continue", TEST_TIMEOUT, || {
        remote.read(CHILD_IS_READY, 1).unwrap() == [1]
    });
    let sessions = remote.read(0, 8).unwrap();
    assert!(
        u64::from_le_bytes(sessions.try_into().unwrap()) > 0,
        "the child used its parent's connection"
    );
}

#[test]
fn a_forked_child_neither_hides_the_death_of_its_parent_nor_releases_its_resources() {
    let cluster = Cluster::builder().k(K).local().start();
    let mut forking = own_process::command(module_path!(), "forking_process");
    forking
        .env("FORKING", "1")
        .env("DSM_CONFIG", cluster.config_path());
    assert!(forking.status().unwrap().success(), "the parent");
    let remote = client(&cluster);
    let is_set = |word| remote.read(word, 1).unwrap() == [1];
    wait_for("the child to continue", TEST_TIMEOUT, || {
        is_set(CHILD_IS_READY)
    });

    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    assert_eq!(
        segment.participants(),
        2,
        "dsmd and this test, not the dead parent, although its child lives"
    );
    // Takes every worker that the server does not reserve, the parent's too.
    let workers: Vec<_> = std::iter::from_fn(|| segment.worker().ok()).collect();
    assert!(workers.len() > 32, "{}", workers.len());
    remote.swap(DROP_CLIENTS, 1).unwrap();
    wait_for("the child to drop its clients", TEST_TIMEOUT, || {
        is_set(DROPPED)
    });
    assert!(
        segment.worker().is_err(),
        "the child released a worker that this test has taken over"
    );
    assert!(segment.is_ready());
}
