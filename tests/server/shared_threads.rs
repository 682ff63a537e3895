//! More connections than limits.threads share a few threads, and get their own threads again when
//! there are fewer. A wait of one connection delays no other.

#![allow(clippy::unwrap_used)]

use dsm_core::protocol::{Extent, MemoryChange, MemoryOperation, Request};
use dsm_core::segment::Segment;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Linger;
use nix::unistd::Pid;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::process::status_field;
use support::program::ChildProgram;
use support::wire::{Wire, encoded};
use support::{Cluster, wait_for};

const K: u64 = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(20);

/// The longest freeze of a test: as long as its reads take on a busy machine.
const LEASE: Duration = Duration::from_secs(10);

fn cluster() -> Cluster {
    Cluster::builder()
        .k(K)
        .config("[limits]\nthreads = 2\n")
        .start()
}

/// The stack size of the server's threads, and the memory that it may still map: enough for
/// everything except a stack.
const STACK: u64 = 64 << 20;
const SHORT: u64 = 16 << 20;

/// How many equal measurements in a row show that the mapped memory no longer changes.
const STABLE: u32 = 20;

#[test]
fn a_connection_is_served_although_no_thread_can_be_created_for_it() {
    let cluster = Cluster::builder()
        .k(K)
        .config("[limits]\nthreads = 8\n")
        .create();
    let server = ChildProgram::new(
        "server 0".to_owned(),
        cluster.directory().join("stderr.short"),
    );
    server.spawn(cluster.command(0).env("RUST_MIN_STACK", STACK.to_string()));
    server.wait_until_ready(cluster.address(0));
    wait_for("the server reports that it is ready", DEADLINE, || {
        server.stderr().contains("ready: ")
    });
    // Threads map memory when they start, and again after another thread has ended.
    let (mut mapped, mut same) = (0, 0);
    wait_for("the server maps no more memory", DEADLINE, || {
        let now = status_field(server.pid(), "VmSize");
        same = if now == mapped { same + 1 } else { 0 };
        mapped = now;
        same == STABLE
    });
    let pid = server.pid().to_string();
    let limited = Command::new("prlimit")
        .args(["--pid", &pid, &format!("--as={}", mapped + SHORT)])
        .status()
        .unwrap();
    assert!(limited.success());
    // One connection may get the stack of a thread that has ended.
    let mut wires: Vec<Wire> = (0..4).map(|_| Wire::greeted(cluster.layout(), 0)).collect();
    for wire in &mut wires {
        assert_eq!(wire.ask(1, Request::Ping(b"served")).text(), "served");
    }
    let said = server.stderr();
    assert!(
        said.contains("no thread for a connection: ") && said.contains("It shares one"),
        "{said}"
    );
}

/// The number of server threads that serve one connection.
fn dedicated_threads(cluster: &Cluster) -> usize {
    cluster.threads(0, "dsm-connection").len()
}

/// This many connections, which share threads: with enough of them, each thread serves several.
fn sharing(cluster: &Cluster, count: usize) -> Vec<Wire> {
    let wires = (0..count)
        .map(|_| Wire::greeted(cluster.layout(), 0))
        .collect();
    wait_for(
        "no thread that serves a single connection",
        DEADLINE,
        || dedicated_threads(cluster) == 0,
    );
    wires
}

/// Pins the server's thread of this name to one processor.
fn pin(cluster: &Cluster, name: &str, processor: usize) {
    // A thread sets its name itself when it runs, which may be after the server is ready.
    wait_for(name, DEADLINE, || !cluster.threads(0, name).is_empty());
    let mut there = CpuSet::new();
    there.set(processor).unwrap();
    cluster
        .threads(0, name)
        .into_iter()
        .for_each(|thread| sched_setaffinity(thread, &there).unwrap());
}

/// For each epoll instance of the server, the client ports of the connections that it watches.
fn watched(cluster: &Cluster) -> Vec<BTreeSet<u16>> {
    let process = PathBuf::from(format!("/proc/{}", cluster.pid(0)));
    let text = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    // local address, remote address, …, inode: see proc_net_tcp(5).
    let table = text(process.join("net/tcp"));
    let ports: HashMap<&str, u16> = table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (_, port) = fields.get(2)?.split_once(':')?;
            Some((*fields.get(9)?, u16::from_str_radix(port, 16).ok()?))
        })
        .collect();
    let port = |number: &str| {
        let link = std::fs::read_link(process.join("fd").join(number)).ok()?;
        ports
            .get(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?)
            .copied()
    };
    let files = std::fs::read_dir(process.join("fdinfo")).unwrap().flatten();
    let watches = files
        .map(|file| text(file.path()))
        .filter(|watches| watches.contains("tfd:"));
    let descriptor = |line: &str| port(line.strip_prefix("tfd:")?.split_whitespace().next()?);
    watches
        .map(|watches| watches.lines().filter_map(descriptor).collect())
        .collect()
}

/// A client that sends requests on its connections from one processor until it is dropped, and
/// checks every reply.
struct PinnedClient {
    ports: BTreeSet<u16>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PinnedClient {
    fn from(processor: usize, mut wires: Vec<Wire>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ports = wires
            .iter()
            .map(|wire| wire.stream().local_addr().unwrap().port())
            .collect();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut here = CpuSet::new();
            here.set(processor).unwrap();
            sched_setaffinity(Pid::from_raw(0), &here).unwrap();
            for id in 1.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                wires.iter_mut().for_each(|wire| read(wire, id));
            }
        });
        Self {
            ports,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for PinnedClient {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(
            ended.is_ok() || std::thread::panicking(),
            "a reply was wrong"
        );
    }
}

fn read(wire: &mut Wire, id: u64) {
    let reply = wire.ask(id, MemoryOperation::Read(Extent::new(0, 8, K).unwrap()));
    assert_eq!(
        (reply.code(), reply.payload.len()),
        (None, 8),
        "{}",
        reply.text()
    );
}

#[test]
fn connections_share_threads_only_while_there_are_more_than_the_limit() {
    let cluster = cluster();
    let greeted = || Wire::greeted(cluster.layout(), 0);
    let mut wires = vec![greeted(), greeted()];
    wait_for("two threads for two connections", DEADLINE, || {
        dedicated_threads(&cluster) == 2
    });
    for round in 0..3 {
        wires.extend([greeted(), greeted(), greeted()]);
        wait_for(
            "no thread that serves a single connection",
            DEADLINE,
            || dedicated_threads(&cluster) == 0,
        );
        wires.iter_mut().for_each(|wire| read(wire, 10 * round + 1));
        wires.drain(..3);
        wait_for("two threads for two connections again", DEADLINE, || {
            dedicated_threads(&cluster) == 2
        });
        wires.iter_mut().for_each(|wire| read(wire, 10 * round + 2));
    }
}

#[test]
fn requests_in_flight_while_connections_move_are_answered_in_order() {
    let cluster = cluster();
    let mut wire = Wire::greeted(cluster.layout(), 0);
    let began = Instant::now();
    let mut id = 0;
    while began.elapsed() < Duration::from_secs(3) {
        let others: Vec<Wire> = (0..3).map(|_| Wire::greeted(cluster.layout(), 0)).collect();
        for round in 0..200 {
            let first = id + 1;
            for _ in 0..20 {
                id += 1;
                wire.send(&encoded(
                    id,
                    MemoryChange::Write(
                        Extent::new(id % 512 * 8, 8, K).unwrap(),
                        &id.to_le_bytes(),
                    ),
                ));
            }
            for expected in first..=id {
                let reply = wire.reply();
                assert_eq!(
                    (reply.code(), reply.header.id.get()),
                    (None, expected),
                    "{}",
                    reply.text()
                );
            }
            if round == 100 {
                others
                    .iter()
                    .for_each(|other| other.stream().shutdown(std::net::Shutdown::Both).unwrap());
            }
        }
    }
}

#[test]
fn connections_migrate_to_the_thread_on_their_processor_and_the_load_stays_balanced() {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let processors: Vec<usize> = (0..CpuSet::count())
        .filter(|&number| allowed.is_set(number).unwrap())
        .collect();
    // As many shared threads as there are processors, and at most 8.
    let &[first, second] = processors.as_slice() else {
        return eprintln!(
            "not tested: this takes two processors, and there are {}",
            processors.len()
        );
    };
    let cluster = cluster();
    pin(&cluster, "dsm-shared-0", second);
    pin(&cluster, "dsm-shared-1", first);
    let greeted = |_| Wire::greeted(cluster.layout(), 0);
    // Threads take new connections in turn, so each gets some of both.
    let (even, odd): (Vec<_>, Vec<_>) = (0..12)
        .map(greeted)
        .enumerate()
        .partition(|(number, _)| number % 4 < 2);
    let wires = |numbered: Vec<(usize, Wire)>| numbered.into_iter().map(|(_, wire)| wire).collect();
    let (one, other) = (
        PinnedClient::from(first, wires(even)),
        PinnedClient::from(second, wires(odd)),
    );
    wait_for(
        "each thread to have the connections of one processor",
        DEADLINE,
        || {
            let watched = watched(&cluster);
            watched.contains(&one.ports) && watched.contains(&other.ports)
        },
    );
    drop(other);
    drop(one);
    let same = PinnedClient::from(first, (0..12).map(greeted).collect());
    let counts = || {
        watched(&cluster)
            .iter()
            .map(BTreeSet::len)
            .filter(|&count| count > 0)
            .collect::<Vec<_>>()
    };
    wait_for(
        "both threads to share what comes from one processor",
        DEADLINE,
        || counts().iter().sum::<usize>() == 12,
    );
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        let counts = counts();
        assert!(
            counts.len() == 2 && counts.iter().all(|count| (4..=8).contains(count)),
            "{counts:?}"
        );
    }
    drop(same);
}

#[test]
fn a_write_that_waits_for_a_snapshot_delays_no_read_on_the_same_thread() {
    let cluster = cluster();
    let mut wires = sharing(&cluster, 32);
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let mut claim = segment.snapshot_lock().unwrap().unwrap();
    let frozen = claim.freeze(LEASE).unwrap();
    let (writers, readers) = wires.split_at_mut(16);
    for wire in writers.iter_mut() {
        wire.send(&encoded(
            1,
            MemoryChange::Write(Extent::new(64, 8, K).unwrap(), b"12345678"),
        ));
    }
    let began = Instant::now();
    for id in 1..100 {
        readers.iter_mut().for_each(|wire| read(wire, id));
    }
    assert!(
        began.elapsed() < LEASE / 2,
        "reads took {:?} while the memory was frozen",
        began.elapsed()
    );
    // No write took effect while the memory was frozen.
    let word = readers[0].ask(100, MemoryOperation::Read(Extent::new(64, 8, K).unwrap()));
    assert_eq!(word.payload, [0; 8]);
    drop(frozen);
    for wire in writers {
        assert_eq!(wire.reply().code(), None);
    }
    assert_eq!(
        readers[0]
            .ask(101, MemoryOperation::Read(Extent::new(64, 8, K).unwrap()))
            .payload,
        b"12345678"
    );
}

/// A shared thread that is inside a write when the memory is frozen, or waits for what another
/// writer holds, parks that write, too.
#[test]
fn writes_under_way_when_the_memory_is_frozen_delay_no_read() {
    let cluster = cluster();
    let (mut readers, writers) = (sharing(&cluster, 12), sharing(&cluster, 12));
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let mut lock = segment.snapshot_lock().unwrap().unwrap();
    let (end, data) = (AtomicBool::new(false), vec![7; 256 << 10]);
    std::thread::scope(|scope| {
        for mut wire in writers {
            let (end, data) = (&end, &data);
            scope.spawn(move || {
                for id in 1.. {
                    let extent = Extent::new(0, data.len() as u64, K).unwrap();
                    wire.send(&encoded(id, MemoryChange::Write(extent, data)));
                    assert_eq!(wire.reply().code(), None);
                    if end.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        let are_read = (1..=20).all(|round| {
            std::thread::sleep(lock.pause() + Duration::from_millis(5));
            let frozen = lock.freeze(LEASE).unwrap();
            readers.iter_mut().for_each(|wire| read(wire, round));
            frozen.cut(K).is_ok()
        });
        end.store(true, Ordering::Relaxed);
        assert!(are_read, "reads took as long as the freeze");
    });
}

/// The time to complete a request does not run while the request waits for a snapshot.
#[test]
fn a_parked_request_that_came_in_time_is_not_too_slow() {
    let cluster = Cluster::builder()
        .k(K)
        .config("[limits]\nthreads = 2\nrequest_timeout = \"100ms\"\n")
        .start();
    let mut wires = sharing(&cluster, 8);
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let mut lock = segment.snapshot_lock().unwrap().unwrap();
    let frozen = lock.freeze(LEASE).unwrap();
    let extent = Extent::new(64, 8, K).unwrap();
    let write = encoded(1, MemoryChange::Write(extent, b"12345678"));
    for wire in &mut wires {
        // In two parts: the second one finds a deadline running.
        wire.send(&write[..20]);
        std::thread::sleep(Duration::from_millis(5));
        wire.send(&write[20..]);
    }
    // Deadlines are checked twice a second.
    std::thread::sleep(Duration::from_secs(2));
    drop(frozen);
    for wire in &mut wires {
        assert_eq!(wire.reply().code(), None);
    }
}

/// How often the shared threads have gone to sleep.
fn sleeps(cluster: &Cluster) -> u64 {
    (0..2)
        .flat_map(|number| cluster.threads(0, &format!("dsm-shared-{number}")))
        .map(|thread| {
            let thread = u32::try_from(thread.as_raw()).unwrap();
            status_field(thread, "voluntary_ctxt_switches")
        })
        .sum()
}

#[test]
fn a_shared_thread_sleeps_while_the_writes_that_it_serves_wait_for_a_snapshot() {
    let cluster = cluster();
    let mut wires = sharing(&cluster, 32);
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let mut lock = segment.snapshot_lock().unwrap().unwrap();
    let frozen = lock.freeze(LEASE).unwrap();
    let write = |id| {
        encoded(
            id,
            MemoryChange::Write(Extent::new(64, 8, K).unwrap(), b"12345678"),
        )
    };
    for wire in &mut wires {
        // The second one stays in the socket: a thread that asked for events would get one at once.
        wire.send(&write(1));
        std::thread::sleep(Duration::from_millis(1));
        wire.send(&write(2));
    }
    // A connection that breaks has an event for as long as it is open.
    let broken = wires.pop().unwrap();
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(broken.stream(), Linger, &at_once).unwrap();
    drop(broken);
    std::thread::sleep(Duration::from_millis(200));
    let before = sleeps(&cluster);
    std::thread::sleep(Duration::from_secs(1));
    let slept = sleeps(&cluster) - before;
    // Each thread wakes up twice in a second by itself, and when the watchdog asks. One that looked
    // at the gate in between would do so thousands of times.
    assert!(slept < 200, "{slept} times in a second");
    drop(frozen);
    for wire in &mut wires {
        assert_eq!(wire.reply().code(), None);
        assert_eq!(wire.reply().code(), None);
    }
}

#[test]
fn writes_that_were_parked_continue_when_the_process_that_froze_the_memory_does_not() {
    let cluster = cluster();
    let mut wires = sharing(&cluster, 8);
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let mut lock = segment.snapshot_lock().unwrap().unwrap();
    let frozen = lock.freeze(Duration::from_millis(300)).unwrap();
    for wire in &mut wires {
        wire.send(&encoded(
            1,
            MemoryChange::Write(Extent::new(64, 8, K).unwrap(), b"12345678"),
        ));
    }
    // No process opens the gate: the lease ends.
    for wire in &mut wires {
        assert_eq!(wire.reply().code(), None);
    }
    assert!(frozen.cut(K).is_err());
}
