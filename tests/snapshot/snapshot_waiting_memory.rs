//! Memory that waits for a restore is opened only by a restore of all of it, and cannot be in a
//! snapshot.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::random::Random;
use support::snapshots::{PAGE_BYTES, header, memory, write, zstd};
use support::{Cluster, dsmctl, wait_for};

/// Pages of the server.
const PAGES: usize = 64;

/// The agent of the server; killed when dropped.
struct RunningAgent(Child);

impl RunningAgent {
    fn start(cluster: &Cluster) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dsm-snapshot"));
        command
            .arg("--config")
            .arg(cluster.config_path())
            .args(["--index", "0", "agent"]);
        command
            .env_remove("NOTIFY_SOCKET")
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let agent = Self(command.spawn().unwrap());
        let address = cluster.config().servers[0]
            .snapshot
            .as_ref()
            .unwrap()
            .to_string();
        wait_for("the agent listens", Duration::from_secs(20), || {
            TcpStream::connect(&address).is_ok()
        });
        agent
    }
}

impl Drop for RunningAgent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn memory_that_waits_is_opened_only_by_a_restore_of_all_of_it() {
    let k = PAGES * PAGE_BYTES;
    let wait = "[recovery]\non_memory_loss = \"wait\"";
    let cluster = Cluster::builder().k(k as u64).config(wait).start();
    let _agent = RunningAgent::start(&cluster);
    let run = |line: &str| dsmctl::run(cluster.directory(), &cluster.config_path(), line, b"");
    let bytes = memory(&mut Random::new("waits"), PAGES);
    let snapshot = write(cluster.directory(), &header(PAGES, &[7]), &bytes, zstd());
    let restore = format!("snapshot restore {}", snapshot.display());

    run("snapshot create -o new.dsnap").fails(
        69,
        &[
            "1 of 1 servers cannot be in the snapshot",
            "waiting for restore",
        ],
    );
    let whole = format!("--range 0 {k}");
    run(&format!("{restore} --range 0 4096"))
        .fails(65, &["server 0", &whole, "dsmctl memory accept-empty"]);
    run("read 0 8").fails(75, &["waiting for restore"]);

    run(&format!("{restore} {whole}")).prints();
    assert!(run(&format!("read 0 {k}")).stdout == bytes);
    run("fill 4096 8192 9").prints();
    run(&format!("{restore} --range 4096 4096")).prints();
    let read = run("read 4096 8192").stdout;
    assert!(read[..4096] == bytes[4096..8192] && read[4096..].iter().all(|byte| *byte == 9));
}
