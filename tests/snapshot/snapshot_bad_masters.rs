//! A peer of an agent may send anything, or nothing: the agent survives, writers wait no longer
//! than the lease, and a real snapshot succeeds afterwards.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::agents::{UNDER_WAY, is_agent_timeout};
use support::messages::{CONTROL, DATA, FRAME, FakeMaster, control, header, message};
use support::random::Random;
use support::ring::{self, Ring};
use support::{Cluster, client, wait_for};

const K: u64 = 256 * 1024;

/// The server whose agent the tests connect to.
const SERVER: usize = 0;

/// `snapshot.timeout`, the multiple of it that an agent waits for the next request, and the
/// additional time on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(1);
const WAIT_FACTOR: u32 = 10;
const SLACK: Duration = Duration::from_secs(5);

/// How long it may take on a busy machine until a snapshot is refused for the expected reason.
const REFUSED: Duration = Duration::from_secs(60);

/// The default of `snapshot.freeze_timeout`.
const LEASE: Duration = Duration::from_millis(500);

/// More connections than an agent admits, and more than the backlog of its socket holds.
const CONNECTIONS: usize = 200;

fn cluster(servers: usize, k: u64) -> Cluster {
    let cluster = Cluster::builder()
        .servers(servers)
        .k(k)
        .snapshot("timeout = \"1s\"")
        .start();
    cluster.start_agents();
    cluster
}

/// Takes a real snapshot with the agents of the cluster, and checks it.
fn succeeds(cluster: &Cluster) {
    ring::check_snapshot(cluster.snapshot().path());
    cluster.wait_until_copy_areas_are_empty();
}

/// Waits until the agent closes the connection, which must happen within `within`. Returns the
/// reason of its refusal, if there was one.
#[track_caller]
fn closed(caller: &mut FakeMaster, within: Duration) -> Option<String> {
    let began = Instant::now();
    let reason = caller.refusal().map(|(reason, _)| reason);
    assert!(
        began.elapsed() <= within + SLACK,
        "the connection was closed after {:?}",
        began.elapsed()
    );
    reason
}

#[test]
fn a_connection_whose_master_sends_nothing_is_closed_after_its_time_limit() {
    let cluster = cluster(2, K);
    let (mut silent, mut half) = (
        FakeMaster::connect(&cluster, SERVER),
        FakeMaster::connect(&cluster, SERVER),
    );
    half.send(&control(json!({"hello": {}}))[..20]);
    let (mut greeted, mut claimed) = (
        FakeMaster::greeted(&cluster, SERVER),
        FakeMaster::claimed(&cluster, SERVER),
    );
    closed(&mut silent, TIMEOUT);
    closed(&mut half, TIMEOUT);
    // An agent may wait longer for these two, but no writer waits for them.
    Ring::start(&cluster).stop();
    wait_for(
        "a snapshot is refused while another is under way",
        REFUSED,
        || {
            // Keep the snapshot lock. On a busy machine, a snapshot may fail because an agent took
            // longer than the timeout.
            claimed.ask(json!("activity"));
            let run = cluster.create_snapshot(&[]);
            if is_agent_timeout(&run) {
                return false;
            }
            run.fails(UNDER_WAY, &["is under way"]);
            true
        },
    );
    closed(&mut greeted, TIMEOUT * WAIT_FACTOR);
    closed(&mut claimed, TIMEOUT * WAIT_FACTOR);
    succeeds(&cluster);
}

#[test]
fn a_freeze_that_is_never_ended_holds_writers_no_longer_than_the_agents_configuration_allows() {
    let cluster = cluster(2, K);
    let ring = Ring::start(&cluster);
    ring.take_longest();
    // It asks for the longest lease that the message can express.
    let mut frozen = FakeMaster::frozen(&cluster, SERVER);
    assert_eq!(closed(&mut frozen, LEASE).as_deref(), Some("late"));
    ring.wait_until_all_progress();
    let longest = ring.take_longest();
    println!("the longest requests: {longest:?}");
    assert!(
        longest.iter().all(|longest| *longest <= LEASE + TIMEOUT),
        "writers waited {longest:?}"
    );
    assert!(
        longest.iter().any(|longest| *longest >= LEASE / 2),
        "writers waited {longest:?}"
    );
    succeeds(&cluster);
    ring.stop();
}

#[test]
fn a_cut_that_is_never_read_holds_no_writer_and_ends_with_the_connection() {
    let cluster = cluster(2, K);
    let ring = Ring::start(&cluster);
    let cut = FakeMaster::cut(&cluster, SERVER);
    ring.wait_until_all_progress();
    ring.take_longest();
    ring.wait_until_all_progress();
    let longest = ring.take_longest();
    assert!(
        longest.iter().all(|longest| *longest < LEASE),
        "writers waited {longest:?}"
    );
    drop(cut);
    succeeds(&cluster);
    ring.stop();
}

/// Brings a connection to a step of the protocol.
type Begin = fn(&Cluster, usize) -> FakeMaster;

/// Messages that an agent refuses at every step.
fn malformed_messages() -> Vec<(&'static str, Vec<u8>)> {
    let mut damaged = control(json!("release"));
    *damaged.last_mut().unwrap() ^= 1;
    let mut version = control(json!("release"));
    version[2] += 1;
    vec![
        ("text", b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n".to_vec()),
        ("a long control message", header(CONTROL, u32::MAX, 0)),
        ("a long frame", header(FRAME, u32::MAX, 0)),
        ("much data", header(DATA, u32::MAX, 0)),
        ("an unknown kind", header(4, 0, 0)),
        ("another version", version),
        ("a wrong checksum", damaged),
        ("nothing in a message", message(CONTROL, b"")),
        ("no JSON", message(CONTROL, b"{\"freeze\":")),
        ("deep JSON", message(CONTROL, &[b'['; 100_000])),
        (
            "an unknown request",
            control(json!({"explode": {"now": true}})),
        ),
        (
            "a request with a wrong value",
            control(json!({"freeze": {"lease_us": -1}})),
        ),
        ("a request out of turn", control(json!("written"))),
        ("a frame", message(FRAME, &[0; 64])),
        ("data", message(DATA, &[0; 64])),
    ]
}

#[test]
fn a_malformed_message_at_any_step_is_refused_and_affects_no_other_master_or_writer() {
    let cluster = cluster(2, K);
    let ring = Ring::start(&cluster);
    ring.take_longest();
    let steps: [(&str, Begin); 5] = [
        ("connected", FakeMaster::connect),
        ("greeted", FakeMaster::greeted),
        ("claimed", FakeMaster::claimed),
        ("frozen", FakeMaster::frozen),
        ("cut", FakeMaster::cut),
    ];
    for (step, begin) in steps {
        for (what, bytes) in malformed_messages() {
            let mut caller = begin(&cluster, SERVER);
            caller.send(&bytes);
            assert_eq!(
                closed(&mut caller, TIMEOUT).as_deref(),
                Some("protocol"),
                "{what} when {step}"
            );
        }
        succeeds(&cluster);
    }
    ring.wait_until_all_progress();
    let longest = ring.take_longest();
    println!(
        "{} kinds of malformed messages at {} steps: the longest requests {longest:?}",
        malformed_messages().len(),
        steps.len()
    );
    assert!(
        longest.iter().all(|longest| *longest <= LEASE + TIMEOUT),
        "writers waited {longest:?}"
    );
    ring.stop();
}

#[test]
fn values_that_are_not_allowed_are_refused() {
    let cluster = cluster(2, K);
    let ring = Ring::start(&cluster);
    let layout = cluster.layout().canonical();
    let hello = |layout: &str, index: u64| json!({"hello": {"layout": layout, "index": index}});
    let send = |level: i64, size: u64| json!({"send": {"level": level, "frame_size": size}});
    let cases: [(&str, Begin, Value); 9] = [
        ("layout", FakeMaster::connect, hello("", 0)),
        (
            "layout",
            FakeMaster::connect,
            hello(&layout.replace('2', "3"), 0),
        ),
        ("layout", FakeMaster::connect, hello(&layout, 1)),
        (
            "late",
            FakeMaster::claimed,
            json!({"freeze": {"lease_us": 0}}),
        ),
        ("protocol", FakeMaster::cut, send(99, 4096)),
        ("protocol", FakeMaster::cut, send(-1, 4096)),
        ("protocol", FakeMaster::cut, send(1, 0)),
        ("protocol", FakeMaster::cut, send(1, 4095)),
        ("protocol", FakeMaster::cut, send(1, u32::MAX.into())),
    ];
    for (reason, begin, ask) in cases {
        let mut caller = begin(&cluster, SERVER);
        caller.send(&control(ask.clone()));
        let mut answer = caller
            .answer()
            .unwrap_or_else(|| panic!("no answer to {ask}"));
        if answer.get("frozen").is_some() {
            answer = caller.answer().unwrap();
        }
        assert_eq!(answer["refused"]["reason"], reason, "{ask}: {answer}");
    }
    // A copy area without room: the writers end the cut.
    let mut caller = FakeMaster::frozen(&cluster, SERVER);
    assert!(
        caller
            .ask(json!({"cut": {"copy_area": 0}}))
            .get("cut")
            .is_some()
    );
    ring.wait_until_all_progress();
    assert_eq!(caller.ask(send(1, 4096))["refused"]["reason"], "abandoned");
    succeeds(&cluster);
    ring.stop();
}

#[test]
fn a_connection_whose_master_does_not_read_the_pages_is_closed_after_its_time_limit() {
    // More bytes than the buffers of the sockets hold, and none that can be compressed.
    let cluster = cluster(1, 32 << 20);
    let mut random = Random::new("snapshot_bad_masters");
    let noise: Vec<u8> = (0..cluster.layout().share_size() / 8)
        .flat_map(|_| random.next().to_le_bytes())
        .collect();
    client(&cluster).write(0, &noise).unwrap();
    let mut caller = FakeMaster::cut(&cluster, SERVER);
    caller.send(&control(
        json!({"send": {"level": 0, "frame_size": 262_144}}),
    ));
    let began = Instant::now();
    // When another master gets the snapshot lock, the agent has closed the connection.
    drop(FakeMaster::claimed(&cluster, SERVER));
    assert!(
        began.elapsed() <= 2 * TIMEOUT + SLACK,
        "the connection was closed after {:?}",
        began.elapsed()
    );
    let file = cluster.snapshot();
    let mut memory = vec![0; noise.len()];
    file.read_range(0, &mut memory).unwrap();
    assert!(memory == noise, "another memory");
    drop(caller);
}

#[test]
fn two_hundred_connections_end_no_snapshot_that_has_begun_and_do_not_prevent_the_next_one() {
    let cluster = cluster(2, K);
    let ring = Ring::start(&cluster);
    let mut before = FakeMaster::cut(&cluster, SERVER);
    let mut crowd: Vec<FakeMaster> = (0..CONNECTIONS)
        .map(|_| FakeMaster::connect(&cluster, SERVER))
        .collect();
    before.send(&control(
        json!({"send": {"level": 1, "frame_size": 262_144}}),
    ));
    let mut kinds = Vec::new();
    while kinds.last() != Some(&CONTROL) {
        kinds.push(support::messages::receive(&mut before.0).unwrap().0);
    }
    assert!(
        kinds.len() > 1 && kinds[..kinds.len() - 1].iter().all(|kind| *kind == FRAME),
        "{kinds:?}"
    );
    let began = Instant::now();
    crowd
        .iter_mut()
        .for_each(|caller| drop(closed(caller, TIMEOUT)));
    println!(
        "{CONNECTIONS} connections were closed within {:?}",
        began.elapsed()
    );
    succeeds(&cluster);
    ring.stop();
}

/// A long text with control sequences that would act on the terminal of a person who reads the log.
fn hostile_text() -> String {
    "\x1b]0;owned\x07\x1b[2J\nall is well\u{9b}31m\u{202e}".repeat(2000)
}

#[test]
fn text_of_masters_controls_no_terminal_and_floods_no_log() {
    let cluster = cluster(1, K);
    let before = cluster.agent(SERVER).stderr().len();
    let layout = cluster.layout().canonical();
    for number in 0..100 {
        let (mut caller, ask) = match number % 5 {
            0 => (
                FakeMaster::connect(&cluster, SERVER),
                json!({"hello": {"layout": hostile_text(), "index": 0}}),
            ),
            1 => (
                FakeMaster::connect(&cluster, SERVER),
                json!({"hello": {"layout": layout.clone() + &hostile_text(), "index": 0}}),
            ),
            2 => (
                FakeMaster::greeted(&cluster, SERVER),
                json!({"claim": {"purpose": "snapshot", "id": hostile_text()}}),
            ),
            3 => (
                FakeMaster::greeted(&cluster, SERVER),
                json!({"fetch": {"name": hostile_text(), "address": 0, "length": 1}}),
            ),
            _ => (
                FakeMaster::greeted(&cluster, SERVER),
                json!({ hostile_text(): {}}),
            ),
        };
        let answer = caller.ask(ask);
        let message = answer["refused"]["message"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"));
        assert!(
            message.len() < 4096 && !message.contains('\x1b'),
            "{message:?}"
        );
    }
    let log = cluster.agent(SERVER).stderr().split_off(before);
    // The lines of one or two periods of the rate limit, each with the most that is shown of such a
    // text.
    assert!(log.len() < 2 * 10 * 1000, "{} bytes:\n{log}", log.len());
    assert!(log.lines().count() >= 10, "{log}");
    assert!(
        log.chars()
            .all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'),
        "{log:?}"
    );
    assert!(
        !log.lines()
            .any(|line| line.trim_start().starts_with("all is well")),
        "{log:?}"
    );
}

/// Addresses of two peers. All programs of a test use 127.0.0.1.
const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const ANOTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

#[test]
fn masters_that_freeze_again_and_again_keep_writers_out_for_a_tenth_of_the_time_at_most() {
    const LEASE: Duration = Duration::from_millis(100);
    const FREEZES: u32 = 5;
    let cluster = Cluster::builder()
        .snapshot("timeout = \"1s\"\nfreeze_timeout = \"100ms\"")
        .start();
    cluster.start_agents();
    let (stop, began) = (AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (writer, mut kept_out) = (client(&cluster), Duration::ZERO);
            while !stop.load(Ordering::SeqCst) {
                let began = Instant::now();
                writer.write(0, b"x").unwrap();
                kept_out += began
                    .elapsed()
                    .checked_sub(LEASE / 4)
                    .map_or(Duration::ZERO, |_| began.elapsed());
            }
            kept_out
        });
        for freeze in 0..FREEZES {
            let mut frozen = FakeMaster::frozen(&cluster, SERVER);
            if freeze + 1 < FREEZES {
                assert_eq!(closed(&mut frozen, LEASE).as_deref(), Some("late"));
            }
            if freeze == 1 {
                // A new process of the agent knows the end of the pause, too.
                cluster.restart_agent(SERVER);
            }
        }
        let took = began.elapsed();
        stop.store(true, Ordering::SeqCst);
        let kept_out = writer.join().unwrap();
        println!("{FREEZES} freezes in {took:?}, the writer was kept out for {kept_out:?}");
        assert!(
            took >= 10 * LEASE * (FREEZES - 1),
            "{FREEZES} freezes within {took:?}"
        );
    });
    succeeds_alone(&cluster);
}

/// Takes a snapshot and verifies it, where there is no ring to check.
fn succeeds_alone(cluster: &Cluster) {
    cluster.snapshot().verify(|_, _| {}).unwrap();
    cluster.wait_until_copy_areas_are_empty();
}

/// Ends a restore, and returns the reason of the refusal that the agent must send.
type EndRestore = fn(&mut FakeMaster) -> Option<&'static str>;

#[test]
fn a_restore_that_ends_before_it_has_changed_a_byte_leaves_the_memory_in_use_as_it_was() {
    // How long the memory stays closed for a master that does not begin. Writers get a pause of
    // nine times as long after it.
    let cluster = Cluster::builder()
        .k(K)
        .snapshot("timeout = \"300ms\"")
        .start();
    cluster.start_agents();
    client(&cluster).write(0, b"what was there").unwrap();
    let before = cluster.incarnations();
    let ends: [(&str, EndRestore); 5] = [
        ("it closes the connection", |_| None),
        ("it sends nothing", |_| Some("late")),
        ("it sends `written` again and again", |caller| {
            wait_for("the agent refuses", TIMEOUT + SLACK, || {
                caller.ask(json!("written"))["refused"]["reason"] == "late"
            });
            None
        }),
        ("it commits without a byte", |caller| {
            caller.send(&control(json!("commit")));
            Some("protocol")
        }),
        ("it sends a malformed message", |caller| {
            caller.send(b"what would this be in a restore?");
            Some("protocol")
        }),
    ];
    for (what, end) in ends {
        let mut caller = FakeMaster::shut(ONE, &cluster, SERVER);
        if let Some(reason) = end(&mut caller) {
            assert_eq!(
                closed(&mut caller, TIMEOUT).as_deref(),
                Some(reason),
                "{what}"
            );
        }
        drop(caller);
        // The next master finds the memory open, so that `accept` is refused.
        wait_for("the snapshot lock is released", SLACK, || {
            let mut next =
                FakeMaster::connect_from(ANOTHER, &cluster, SERVER).greet(&cluster, SERVER);
            let answer = next.ask(json!("accept"));
            assert!(
                ["inuse", "underway"]
                    .map(Value::from)
                    .contains(&answer["refused"]["reason"]),
                "{what}: {answer}"
            );
            answer["refused"]["reason"] == "inuse"
        });
        assert_eq!(
            client(&cluster).read(0, 14).unwrap(),
            b"what was there",
            "{what}"
        );
        assert_eq!(cluster.incarnations(), before, "{what}");
    }
    succeeds_alone(&cluster);
}

#[test]
fn only_the_master_that_began_a_restore_and_its_own_machine_may_accept_the_rest_as_zeros() {
    let cluster = cluster(1, K);
    let own: Ipv4Addr = cluster
        .agent_address(SERVER)
        .split(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let bytes = message(DATA, &[&0_u64.to_le_bytes()[..], b"half of it"].concat());
    for gives_up in [ONE, own] {
        let mut caller = FakeMaster::shut(ONE, &cluster, SERVER);
        caller.send(&bytes);
        assert_eq!(caller.ask(json!("written")), json!("written"));
        drop(caller);
        cluster.assert_memory_closed(SERVER);
        // Another master may open it neither as zeros nor as it is.
        let accept = |from| {
            let mut answer = Value::Null;
            wait_for("the snapshot lock is released", SLACK, || {
                answer = FakeMaster::connect_from(from, &cluster, SERVER)
                    .greet(&cluster, SERVER)
                    .ask(json!("accept"));
                answer["refused"]["reason"] != "underway"
            });
            answer
        };
        let refused = &accept(ANOTHER)["refused"];
        println!("{refused}");
        assert_eq!(refused["reason"], "shut");
        let mut other = FakeMaster::shut(ANOTHER, &cluster, SERVER);
        assert_eq!(other.ask(json!("commit"))["refused"]["reason"], "protocol");
        cluster.assert_memory_closed(SERVER);
        assert!(accept(gives_up).get("committed").is_some());
        assert!(
            client(&cluster)
                .read(0, K)
                .unwrap()
                .iter()
                .all(|byte| *byte == 0)
        );
    }
    // A master that sends all of the memory may open it after another master left it half restored.
    let mut caller = FakeMaster::shut(ONE, &cluster, SERVER);
    caller.send(&bytes);
    drop(caller);
    let mut other = FakeMaster::shut(ANOTHER, &cluster, SERVER);
    other.send(&bytes);
    assert_eq!(
        other.ask(json!("commit"))["refused"]["reason"],
        "protocol",
        "a part of it"
    );
    cluster.assert_memory_closed(SERVER);
    let mut other = FakeMaster::shut(ANOTHER, &cluster, SERVER);
    other.send(&control(json!({"zeros": {"offset": 0, "length": K}})));
    assert!(other.ask(json!("commit")).get("committed").is_some());
    assert!(
        client(&cluster)
            .read(0, K)
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
}

#[test]
fn many_connections_of_one_peer_keep_no_other_peer_out_and_each_has_to_say_hello_soon() {
    /// More connections than an agent admits.
    const CROWD: usize = 40;
    let cluster = Cluster::builder().k(K).start();
    cluster.start_agents();
    let mut silent = FakeMaster::connect_from(ANOTHER, &cluster, SERVER);
    let began = Instant::now();
    // Each is admitted, and replaces an earlier one when the peer has its most.
    let greeted = |_| FakeMaster::connect_from(ONE, &cluster, SERVER).greet(&cluster, SERVER);
    let mut crowd: Vec<FakeMaster> = (0..CROWD).map(greeted).collect();
    succeeds_alone(&cluster);
    assert!(
        crowd[0].answer().is_none(),
        "the first connection of the peer makes room for the last"
    );
    assert!(
        crowd[CROWD - 1]
            .ask(json!("snapshots"))
            .get("snapshots")
            .is_some()
    );
    // By default a message may take 30 s, but `hello` may take only 5 s.
    closed(&mut silent, Duration::from_secs(5));
    println!(
        "the connection without hello was closed after {:?}",
        began.elapsed()
    );
}

#[test]
fn a_snapshot_that_many_fetch_is_checked_once() {
    const FETCHERS: usize = 32;
    const BYTES: usize = 8 << 20;
    let cluster = Cluster::builder().k(BYTES as u64).start();
    cluster.start_agents();
    let mut random = Random::new("snapshot_bad_masters");
    let noise: Vec<u8> = (0..BYTES / 8)
        .flat_map(|_| random.next().to_le_bytes())
        .collect();
    cluster.write_all(&noise);
    let path = cluster.snapshot().path().to_owned();
    let name = path.file_name().unwrap().to_str().unwrap();
    // The agent remembers the result for a file only if its time of change is some seconds old.
    let is_old = || {
        path.metadata()
            .unwrap()
            .modified()
            .unwrap()
            .elapsed()
            .is_ok_and(|age| age.as_secs() > 3)
    };
    wait_for("the file is old enough", SLACK, is_old);
    let read = || {
        let counters =
            std::fs::read_to_string(format!("/proc/{}/io", cluster.agent(SERVER).pid())).unwrap();
        counters
            .lines()
            .find_map(|line| line.strip_prefix("rchar: ")?.parse::<usize>().ok())
            .unwrap()
    };
    let before = read();
    // Each has another address, because one address may not have so many connections.
    let ask = json!({"fetch": {"name": name, "address": 0, "length": 4096}});
    let callers = (0..FETCHERS).map(|number| {
        let from = Ipv4Addr::new(127, 0, 1, u8::try_from(number + 1).unwrap());
        let mut caller = FakeMaster::connect_from(from, &cluster, SERVER).greet(&cluster, SERVER);
        caller.send(&control(ask.clone()));
        caller
    });
    for mut caller in callers.collect::<Vec<_>>() {
        let mut page = Vec::new();
        while let (DATA, payload) = support::messages::receive(&mut caller.0).unwrap() {
            page.extend_from_slice(&payload[8..]);
        }
        assert!(page == noise[..4096], "another memory");
    }
    let read = read() - before;
    println!("{FETCHERS} masters fetched a page of {BYTES} bytes, and the agent read {read} bytes");
    // The header, the index and a frame for each of them, and all of the file once.
    assert!(read < FETCHERS / 4 * BYTES, "{read} bytes");
    // A file that has changed since is checked again.
    support::snapshots::damage(&path, BYTES as u64 / 2);
    let mut caller = FakeMaster::greeted(&cluster, SERVER);
    assert_eq!(caller.ask(ask)["refused"]["reason"], "nosnapshot");
}

/// docs/agent-protocol.md.
fn document() -> String {
    std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/docs/agent-protocol.md"
    ))
    .unwrap()
}

/// The examples of the document: the title of each, and the bytes that it shows.
fn examples() -> Vec<(String, Vec<u8>)> {
    let bytes = |line: &str| {
        if line.starts_with(['{', '"']) {
            return line.as_bytes().to_vec();
        }
        let shown = line.split('#').next().unwrap_or_default();
        shown
            .split_whitespace()
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect()
    };
    let block = |rest: &str| {
        let (title, rest) = rest.split_once('\n').unwrap();
        let lines = rest
            .lines()
            .take_while(|line| *line != "```")
            .filter(|line| *line != "...");
        (title.to_owned(), lines.flat_map(bytes).collect())
    };
    document().split("```hex ").skip(1).map(block).collect()
}

/// The JSON without the values that differ from run to run: numbers, and fields that are texts.
fn shape(value: &Value) -> Value {
    let fields = |fields: &serde_json::Map<String, Value>| {
        let shape_of = |(name, value): (&String, &Value)| {
            (
                name.clone(),
                if value.is_string() {
                    json!("")
                } else {
                    shape(value)
                },
            )
        };
        Value::Object(fields.iter().map(shape_of).collect())
    };
    match value {
        Value::Object(found) => fields(found),
        Value::Number(_) => json!(0),
        other => other.clone(),
    }
}

#[test]
fn an_agent_answers_every_message_of_the_document_as_the_document_shows() {
    let cluster = Cluster::builder()
        .k(65536)
        .snapshot("freeze_timeout = \"10s\"")
        .start();
    cluster.start_agents();
    client(&cluster).write(0, b"hello, memory").unwrap();
    let examples = examples();
    let example = |title: &str| {
        let (_, bytes) = examples
            .iter()
            .find(|(found, _)| found == title)
            .unwrap_or_else(|| panic!("no {title}"));
        bytes
    };
    let json_of = |title: &str| {
        let bytes = example(title);
        assert_eq!(
            *bytes,
            message(CONTROL, &bytes[16..]),
            "{title} is no message"
        );
        serde_json::from_slice::<Value>(&bytes[16..]).unwrap()
    };

    // The layout contains the address of this cluster's server.
    let hello = json!({"hello": {"layout": cluster.layout().canonical(), "index": 0}});
    assert_eq!(shape(&json_of("request hello")), shape(&hello));
    let mut caller = FakeMaster::connect(&cluster, SERVER);
    assert_eq!(shape(&caller.ask(hello)), shape(&json_of("response hello")));
    for name in ["claim", "activity", "freeze", "cut"] {
        json_of(&format!("request {name}"));
        caller.send(example(&format!("request {name}")));
        assert_eq!(
            shape(&caller.answer().unwrap()),
            shape(&json_of(&format!("response {name}"))),
            "{name}"
        );
    }
    json_of("request send");
    caller.send(example("request send"));
    let (kind, frame) = support::messages::receive(&mut caller.0).unwrap();
    let shown = example("response send");
    assert_eq!(
        (
            kind,
            &header(FRAME, u32::try_from(frame.len()).unwrap(), 0)[..]
        ),
        (FRAME, &shown[..16])
    );
    assert_eq!(frame[..shown.len() - 16], shown[16..]);
    assert!(frame[shown.len() - 16..].iter().all(|byte| *byte == 0));
    assert_eq!(caller.answer().unwrap(), json_of("response sent"));

    let mut caller = FakeMaster::greeted(&cluster, SERVER);
    json_of("request commit");
    caller.send(example("request commit"));
    assert_eq!(caller.answer().unwrap(), json_of("response commit"));
    let data = example("data");
    assert_eq!(*data, message(DATA, &data[16..]));
    assert_eq!(data[16..], [&5_u64.to_le_bytes()[..], b"abc"].concat());

    // The length of the longest request, as the agent's refusal gives it.
    let mut caller = FakeMaster::connect(&cluster, SERVER);
    caller.send(&header(CONTROL, u32::MAX, 0));
    let (_, refusal) = caller.refusal().unwrap();
    assert!(
        refusal.contains("where 0 to 560148 are allowed"),
        "{refusal}"
    );
}

/// The requests in the table of the document, with a value of the right type in each field.
fn requests() -> Vec<(String, Value)> {
    let text = document();
    let (_, section) = text.split_once("\n## 3. ").unwrap();
    let rows = section
        .lines()
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.starts_with("| `"));
    let request = |row: &str| {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let (name, fields) = (
            cells.next().unwrap().trim_matches('`'),
            cells.next().unwrap(),
        );
        let field = |field: &str| {
            let (name, kind) = field.trim_start_matches('`').split_once("` (").unwrap();
            let value = match kind {
                "u64" | "u32" | "i32" => json!(1),
                "text" => json!("x"),
                choice => json!(choice.split('"').nth(1).unwrap()),
            };
            (name.to_owned(), value)
        };
        let fields: serde_json::Map<_, _> = fields
            .split("), ")
            .filter(|text| !text.is_empty())
            .map(|text| field(text.trim_end_matches(')')))
            .collect();
        (
            name.to_owned(),
            if fields.is_empty() {
                json!(name)
            } else {
                json!({ name: fields })
            },
        )
    };
    rows.map(request).collect()
}

#[test]
fn an_agent_knows_every_request_of_the_document_with_its_fields() {
    let cluster = cluster(1, K);
    let requests = requests();
    assert_eq!(requests.len(), 15, "{requests:?}");
    for (name, request) in requests {
        let answer = FakeMaster::connect(&cluster, SERVER).ask(request.clone());
        let message = answer["refused"]["message"]
            .as_str()
            .unwrap_or_else(|| panic!("{request}: {answer}"));
        let expected = if name == "hello" {
            "mcomp.cfg differs"
        } else {
            "out of turn"
        };
        assert!(message.starts_with(expected), "{request}: {message}");
        let Value::Object(object) = request else {
            continue;
        };
        let fields = object[&name].as_object().unwrap();
        for field in fields.keys() {
            let rest: serde_json::Map<_, _> = fields
                .iter()
                .filter(|(other, _)| *other != field)
                .map(|(other, value)| (other.clone(), value.clone()))
                .collect();
            let answer = FakeMaster::connect(&cluster, SERVER).ask(json!({ name.as_str(): rest }));
            let message = answer["refused"]["message"].as_str().unwrap();
            assert!(
                message.contains(&format!("missing field `{field}`")),
                "{name} without {field}: {message}"
            );
        }
    }
}
