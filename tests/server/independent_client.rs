//! Programs in another language, written from the specifications alone, work with ours: a client
//! from docs/protocol.md, a master and an agent from docs/agent-protocol.md.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use support::random::Random;
use support::snapshots::memory;
use support::{Cluster, client};

fn python(task: &str, cluster: &Cluster) -> Command {
    let (host, port) = cluster.address(0).rsplit_once(':').expect("host:port");
    let mut command = Command::new("python3");
    command
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/independent_client.py"
        ))
        .args([
            task,
            host,
            port,
            cluster.name(),
            &cluster.layout().share_size().to_string(),
        ])
        .args(cluster.layout().addresses());
    command
}

#[test]
fn a_client_written_from_the_specification_works_with_dsmd() {
    let cluster = Cluster::start(2, 1 << 20);
    let output = python("check", &cluster)
        .output()
        .expect("python3 is installed");
    let (text, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    println!("{text}{errors}");
    assert!(
        output.status.success(),
        "{}:\n{text}{errors}",
        output.status
    );
    assert!(text.ends_with("all as docs/protocol.md says\n"));
}

#[test]
fn its_changes_take_effect_exactly_once_although_dsmd_is_killed() {
    let cluster = Cluster::start(1, 1 << 20);
    let mut client = python("count", &cluster)
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 is installed");
    let (mut kills, mut resumed) = (0, 0);
    for line in BufReader::new(client.stdout.take().expect("a pipe")).lines() {
        let line = line.expect("text");
        println!("{line}");
        if line.starts_with("counted to ") {
            cluster.restart(0);
            kills += 1;
        } else if let Some(times) = line.strip_prefix("the session was resumed ") {
            resumed = times.trim_end_matches(" times").parse().expect("a number");
        }
    }
    assert!(
        client.wait().expect("wait").success(),
        "the client reports an error"
    );
    assert_eq!(kills, 10);
    assert!(resumed > 0, "no kill came while requests were in flight");
}

/// A command of the master or agent in Python, with a file that holds the whole memory.
fn python_with_agents(task: &str, cluster: &Cluster, file: &Path, index: Option<usize>) -> Command {
    let mut command = Command::new("python3");
    command
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/independent_snapshots.py"
        ))
        .args([
            task,
            cluster.name(),
            &cluster.layout().share_size().to_string(),
        ])
        .arg(file)
        .args(index.map(|index| index.to_string()))
        .args((0..cluster.n()).map(|server| {
            format!(
                "{}={}",
                cluster.address(server),
                cluster.agent_address(server)
            )
        }));
    command
}

fn succeeds(mut command: Command) {
    let output = command.output().expect("python3 is installed");
    let (text, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    println!("{text}{errors}");
    assert!(
        output.status.success() && text.ends_with("all as docs/agent-protocol.md says\n"),
        "{}",
        output.status
    );
}

const PAGES: usize = 40;

/// Two servers that allow a busy master enough time for a cut.
fn cluster_of_two() -> Cluster {
    Cluster::builder()
        .servers(2)
        .k(PAGES as u64 * 4096)
        .snapshot("freeze_timeout = \"10s\"")
        .start()
}

#[test]
fn a_master_written_from_the_specification_takes_and_restores_a_snapshot() {
    let cluster = cluster_of_two();
    cluster.start_agents();
    let bytes = memory(&mut Random::new("independent master"), 2 * PAGES);
    cluster.write_all(&bytes);
    let file = cluster.directory().join("memory");
    succeeds(python_with_agents("take", &cluster, &file, None));
    assert!(
        std::fs::read(&file).expect("the file") == bytes,
        "another memory"
    );

    client(&cluster)
        .fill(0, bytes.len() as u64, 7)
        .expect("a fill");
    succeeds(python_with_agents("restore", &cluster, &file, None));
    assert!(
        client(&cluster)
            .read(0, bytes.len() as u64)
            .expect("the memory")
            == bytes,
        "another memory"
    );
}

#[test]
fn an_agent_written_from_the_specification_works_with_our_master() {
    let cluster = cluster_of_two();
    cluster.start_agent(0);
    let bytes = memory(&mut Random::new("independent agent"), 2 * PAGES);
    cluster.write_all(&bytes[..PAGES * 4096]);
    let file = cluster.directory().join("memory");
    std::fs::write(&file, &bytes).expect("the file");
    let mut agent = python_with_agents("agent", &cluster, &file, Some(1))
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut lines = BufReader::new(agent.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "listening");
    let snapshot = cluster.snapshot();
    assert!(
        agent.wait().expect("wait").success(),
        "the agent reports an error"
    );
    let mut found = vec![0; bytes.len()];
    snapshot
        .read_range(0, &mut found)
        .expect("a sound snapshot");
    assert!(found == bytes, "another memory");
    assert_eq!(snapshot.header().servers()[1].hostname, "python");
}
