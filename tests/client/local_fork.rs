//! A child made by `fork(2)` uses nothing of its parent's: the parent's death is seen while the
//! child lives, and the child gives nothing back that is its parent's, or by then somebody else's.

// The lint spares #[test] functions, not what they call.
#![allow(clippy::unwrap_used)]

use dsm_client::{Client, DataPath};
use dsm_config::{Config, LocalAccess};
use dsm_core::segment::Segment;
use support::restores::PATIENCE;
use support::{Cluster, client, own_process, wait_for};

const K: u64 = 1 << 20;

/// Words by which the two tell each other how far they are.
const CHILD_IS_THERE: u64 = 8;
const DROP_IT: u64 = 16;
const DROPPED: u64 = 24;

/// Not a test by itself: a program that uses the memory, and then goes on as its own child, as
/// daemons do.
#[test]
fn forking_process() {
    if std::env::var_os("FORKING").is_none() {
        return;
    }
    let config = Config::load(&Config::find(None)).unwrap();
    let client = Client::new(&config);
    client.write(0, b"parent").unwrap();
    assert_eq!(client.data_path(0).unwrap(), DataPath::Local);
    // An idle connection, which is the parent's too.
    client.status(0).unwrap();
    let (before, mut pipeline) = (client.clone(), client.pipeline());
    pipeline.write(100, b"x").unwrap();

    // The parent ends here, without dropping anything.
    nix::unistd::daemon(true, true).unwrap();
    assert_eq!(client.data_path(0).unwrap(), DataPath::Tcp);
    assert_eq!(client.read(0, 6).unwrap(), b"parent");
    client.swap(CHILD_IS_THERE, 1).unwrap();
    wait_for("the word to drop it", PATIENCE, || {
        before.read(DROP_IT, 1).unwrap() == [1]
    });
    drop((pipeline, before, client));
    // A client of the child's own is as any.
    let own = Client::new(&config);
    own.with_local(LocalAccess::Never).swap(DROPPED, 1).unwrap();
    std::process::exit(0);
}

#[test]
fn a_forked_child_keeps_no_dead_parent_alive_and_gives_nothing_of_it_back() {
    let cluster = Cluster::builder().k(K).local().start();
    let mut forking = own_process::command(module_path!(), "forking_process");
    forking
        .env("FORKING", "1")
        .env("DSM_CONFIG", cluster.config_path());
    assert!(forking.status().unwrap().success(), "the parent");
    let remote = client(&cluster);
    let is_set = |word| remote.read(word, 1).unwrap() == [1];
    wait_for("the child goes on", PATIENCE, || is_set(CHILD_IS_THERE));

    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    assert_eq!(
        segment.participants(),
        2,
        "dsmd and this test; the parent is dead though its child lives"
    );
    // Every worker that there is for others than the server, so that of the parent too.
    let workers: Vec<_> = std::iter::from_fn(|| segment.worker().ok()).collect();
    assert!(workers.len() > 32, "{}", workers.len());
    remote.swap(DROP_IT, 1).unwrap();
    wait_for("the child has dropped its clients", PATIENCE, || {
        is_set(DROPPED)
    });
    assert!(
        segment.worker().is_err(),
        "the child gave back a worker that is this test's by now"
    );
    assert!(segment.is_ready());
}
