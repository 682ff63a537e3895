//! The program that listens as an agent may be slow, send nothing, or send anything: the master
//! ends in time, names it, and leaves nothing behind.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use dsm_config::Compression;
use dsm_snapshot::retention::Standing;
use dsm_snapshot::{FrameEncoder, Header, HeaderFields};
use serde_json::json;
use std::time::Duration;
use support::Cluster;
use support::dsmctl::Run;
use support::fake_agent::{
    AgentFault, AgentStep, BROKEN, Behaviour, FakeAgent, SLOW, STEPS, UNAVAILABLE,
    WITH_HOSTILE_TEXT,
};
use support::messages::{FRAME, control, message};
use support::snapshots::PAGE_BYTES;

const SERVERS: usize = 3;
const K: u64 = 256 * 1024;

/// The server whose agent misbehaves.
const VICTIM: usize = 1;

/// `snapshot.timeout`, and the additional time of a master on a busy machine, whose disk may take
/// seconds for a file.
const TIMEOUT: Duration = Duration::from_secs(1);
const SLACK: Duration = Duration::from_secs(8);

/// Exit codes: an agent does not do its task; the program that listens is not an agent.
const NOT_THERE: i32 = 69;
const NO_AGENT: i32 = 76;

/// Servers with agents, except for the victim.
fn cluster() -> Cluster {
    let cluster = Cluster::builder()
        .servers(SERVERS)
        .k(K)
        .snapshot("timeout = \"1s\"")
        .start();
    (0..SERVERS)
        .filter(|index| *index != VICTIM)
        .for_each(|index| cluster.start_agent(index));
    cluster
}

/// The frames of a server as its agent would send them: a few pages each, with gaps between them.
fn frames(cluster: &Cluster, server: usize) -> [Vec<u8>; 3] {
    let fields = HeaderFields::new(cluster.layout().clone(), 0, &[1; SERVERS], None).unwrap();
    let mut encoder =
        FrameEncoder::new(server, &Header::new(fields).unwrap(), Compression::None).unwrap();
    [0, 10, 20].map(|first| {
        let mut found = Vec::new();
        let mut emit = |frame: &[u8]| -> Result<(), ()> {
            found.extend_from_slice(frame);
            Ok(())
        };
        encoder.add(first, &[7; 3 * PAGE_BYTES], &mut emit).unwrap();
        encoder.flush(&mut emit).unwrap();
        found
    })
}

/// The messages with these frames, and the response that ends them.
fn pages(frames: &[&[u8]]) -> Vec<u8> {
    let mut bytes: Vec<u8> = frames
        .iter()
        .flat_map(|frame| message(FRAME, frame))
        .collect();
    bytes.extend(control(json!({"sent": {"pages_copied": 0}})));
    bytes
}

/// Runs a master after the pause that writers get after a freeze. The master must end in time.
#[track_caller]
fn create(cluster: &Cluster, what: &str) -> Run {
    let (run, took) = cluster.create_after_backoff(&[]);
    println!(
        "{what}: exit code {} after {took:?}: {}",
        run.code,
        run.stderr.lines().nth(1).unwrap_or_default()
    );
    assert!(took <= TIMEOUT + SLACK, "{what}: the master took {took:?}");
    run
}

/// Runs a master, which must end in time with this code, name the victim, and leave nothing.
#[track_caller]
fn fails(cluster: &Cluster, what: &str, code: i32) {
    let run = create(cluster, what);
    run.fails(code, &[&format!("server {VICTIM}")]);
    let others = (0..SERVERS)
        .filter(|index| *index != VICTIM)
        .map(|index| format!("server {index}"));
    others.for_each(|other| {
        assert!(
            !run.stderr.contains(&other),
            "{what} is not the fault of {other}: {}",
            run.stderr
        );
    });
    assert!(
        cluster.snapshots().is_empty() && cluster.partials().is_empty(),
        "{what} leaves a file"
    );
}

/// Replaces the fake agent by a real one, with which a snapshot must succeed.
fn succeeds_with_a_real_agent(cluster: &Cluster, fake: FakeAgent) {
    drop(fake);
    cluster.start_agent(VICTIM);
    cluster.snapshot();
    cluster.wait_until_copy_areas_are_empty();
}

#[test]
fn a_slow_or_broken_agent_is_named_in_time_and_leaves_no_file() {
    let cluster = cluster();
    fails(&cluster, "no process listens", NOT_THERE);
    let pages = pages(&frames(&cluster, VICTIM).each_ref().map(Vec::as_slice));
    let behaviour = |step, fault| Behaviour {
        step,
        fault,
        pages: pages.clone(),
    };
    let fake = FakeAgent::start(
        &cluster,
        VICTIM,
        behaviour(AgentStep::Hello, AgentFault::Stall),
    );
    for step in STEPS {
        let cases = SLOW.map(|fault| (fault, NOT_THERE)).into_iter();
        let cases = cases.chain(UNAVAILABLE.map(|fault| (fault, NOT_THERE)));
        for (fault, code) in cases.chain(BROKEN.map(|fault| (fault, NO_AGENT))) {
            fake.behave(behaviour(step, fault));
            // Before the cut, it counts as an agent that cannot be reached.
            let code = if [AgentStep::Hello, AgentStep::Claim].contains(&step) {
                NOT_THERE
            } else {
                code
            };
            fails(&cluster, &format!("{fault:?} at {step:?}"), code);
        }
    }
    succeeds_with_a_real_agent(&cluster, fake);
}

#[test]
fn frames_that_are_not_valid_make_no_file() {
    let cluster = cluster();
    let [first, second, third] = frames(&cluster, VICTIM);
    let [other, ..] = frames(&cluster, VICTIM + 1);
    let changed = |byte: usize| {
        let mut frame = second.clone();
        frame[byte] ^= 1;
        frame
    };
    // Byte by byte: the frame's header, and the first of its pages.
    let damaged = (0..=dsm_snapshot::FRAME_HEADER)
        .map(|byte| (format!("byte {byte} is another"), changed(byte)));
    let mut cases: Vec<_> = damaged
        .map(|(what, frame)| (what, pages(&[&first, &frame, &third])))
        .collect();
    cases.extend([
        (
            "a frame of another server".to_owned(),
            pages(&[&first, &other]),
        ),
        ("the same frame twice".to_owned(), pages(&[&first, &first])),
        (
            "frames in the wrong order".to_owned(),
            pages(&[&second, &first]),
        ),
        (
            "a frame and a half".to_owned(),
            pages(&[&first, &second[..second.len() / 2]]),
        ),
        (
            "a frame with more bytes".to_owned(),
            pages(&[&[&first[..], &[0]].concat()]),
        ),
    ]);
    let behaviour = |pages| Behaviour {
        step: AgentStep::Send,
        fault: AgentFault::None,
        pages,
    };
    let fake = FakeAgent::start(&cluster, VICTIM, behaviour(Vec::new()));
    for (what, pages) in cases {
        fake.behave(behaviour(pages));
        fails(&cluster, &what, NO_AGENT);
    }
    // Sound frames of the fake agent make a file.
    fake.behave(behaviour(pages(&[&first, &second, &third])));
    let run = create(&cluster, "sound pages");
    assert_eq!(
        (run.code, cluster.snapshots().len()),
        (0, 1),
        "{}",
        run.stderr
    );
    succeeds_with_a_real_agent(&cluster, fake);
}

#[test]
fn with_allow_partial_a_file_is_written_without_the_server_whose_agent_fails() {
    let cluster = cluster();
    let behaviour = |step, fault| Behaviour {
        step,
        fault,
        pages: Vec::new(),
    };
    let fake = FakeAgent::start(
        &cluster,
        VICTIM,
        behaviour(AgentStep::Hello, AgentFault::Stall),
    );
    for (number, step) in [AgentStep::Hello, AgentStep::Claim].into_iter().enumerate() {
        for (more, fault) in [
            AgentFault::Stall,
            AgentFault::OtherProtocol,
            AgentFault::Refuse,
            AgentFault::Close,
        ]
        .into_iter()
        .enumerate()
        {
            fake.behave(behaviour(step, fault));
            let (run, _) = cluster.create_after_backoff(&["--allow-partial"]);
            assert_eq!(run.code, 0, "{fault:?} at {step:?}: {}", run.stderr);
            assert!(
                run.stderr.contains(&format!("server {VICTIM}")),
                "{}",
                run.stderr
            );
            assert_eq!(cluster.snapshots().len(), 4 * number + more + 1);
        }
    }
    let files = dsm_snapshot::list(&cluster.snapshot_directory(), cluster.name()).unwrap();
    assert!(
        files.iter().all(|file| file.standing == Standing::Partial),
        "{files:?}"
    );
    // Later failures end the snapshot: the other servers have made their cut together with this
    // one.
    fake.behave(behaviour(AgentStep::Cut, AgentFault::Close));
    cluster
        .create_after_backoff(&["--allow-partial"])
        .0
        .fails(NOT_THERE, &[&format!("server {VICTIM}")]);
    assert_eq!(cluster.snapshots().len(), files.len());
    succeeds_with_a_real_agent(&cluster, fake);
}

/// Fails when the text contains a control sequence, or a line that the program did not write.
#[track_caller]
fn assert_harmless(what: &str, text: &str) {
    assert!(
        text.chars()
            .all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'),
        "{what}: {text:?}"
    );
    assert!(
        !text.lines().any(|line| line.starts_with("all is well")),
        "{what}: {text:?}"
    );
    assert!(text.len() < 4000, "{what}: {} bytes", text.len());
}

#[test]
fn text_of_agents_controls_no_terminal_and_floods_no_log() {
    let cluster = cluster();
    let behaviour = |step, fault| Behaviour {
        step,
        fault,
        pages: Vec::new(),
    };
    let fake = FakeAgent::start(
        &cluster,
        VICTIM,
        behaviour(AgentStep::Hello, AgentFault::Stall),
    );
    let output = cluster.directory().join("own.dsnap");
    for step in STEPS {
        for fault in WITH_HOSTILE_TEXT {
            fake.behave(behaviour(step, fault));
            let what = format!("{fault:?} at {step:?}");
            let run = create(&cluster, &what);
            assert_ne!(run.code, 0, "{what}");
            assert_harmless(&what, &run.stderr);
            assert_harmless(&what, run.text());
            let run = cluster.spawn_dsmctl_create(&output, &[]).wait();
            assert_ne!(run.code, 0, "{what}");
            assert_harmless(&format!("dsmctl: {what}"), &run.stderr);
            assert_harmless(&format!("dsmctl: {what}"), run.text());
        }
    }
    succeeds_with_a_real_agent(&cluster, fake);
}
