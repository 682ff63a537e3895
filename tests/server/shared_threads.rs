//! More connections than limits.threads share a few threads, and part again; what one of them waits
//! for holds up no other.

#![allow(clippy::unwrap_used)]

use dsm_core::protocol::{Extent, Operation};
use dsm_core::segment::Segment;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::process::status_field;
use support::program::Program;
use support::wire::{Wire, encoded};
use support::{Cluster, wait_for};

const K: u64 = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(20);

/// How long the freeze of a test lasts at most: as long as its reads take on a busy machine.
const LEASE: Duration = Duration::from_secs(10);

fn cluster() -> Cluster {
    Cluster::builder()
        .k(K)
        .config("[limits]\nthreads = 2\n")
        .start()
}

/// The stack of each thread of a server here, and the memory that it may still map: enough for all
/// but a stack.
const STACK: u64 = 64 << 20;
const SHORT: u64 = 16 << 20;

/// How often in a row a server's memory must be the same until it is taken to stay so.
const SETTLED: u32 = 20;

#[test]
fn a_connection_that_no_thread_can_be_had_for_is_served_all_the_same() {
    let cluster = Cluster::builder()
        .k(K)
        .config("[limits]\nthreads = 8\n")
        .create();
    let server = Program::new(
        "server 0".to_owned(),
        cluster.directory().join("stderr.short"),
    );
    server.spawn(cluster.command(0).env("RUST_MIN_STACK", STACK.to_string()));
    server.wait_until_ready(cluster.address(0));
    wait_for("the server has said that it is ready", DEADLINE, || {
        server.stderr().contains("ready: ")
    });
    // Its threads map memory as they begin, and after one that has ended.
    let (mut mapped, mut same) = (0, 0);
    wait_for("the server maps no more memory", DEADLINE, || {
        let now = status_field(server.pid(), "VmSize");
        same = if now == mapped { same + 1 } else { 0 };
        mapped = now;
        same == SETTLED
    });
    let pid = server.pid().to_string();
    let limited = Command::new("prlimit")
        .args(["--pid", &pid, &format!("--as={}", mapped + SHORT)])
        .status()
        .unwrap();
    assert!(limited.success());
    // One may get the stack of a thread that has ended.
    let mut wires: Vec<Wire> = (0..4).map(|_| Wire::greeted(cluster.layout(), 0)).collect();
    for wire in &mut wires {
        assert_eq!(wire.ask(1, Operation::Ping(b"served")).text(), "served");
    }
    let said = server.stderr();
    assert!(
        said.contains("no thread for a connection: ") && said.contains("It shares one"),
        "{said}"
    );
}

/// Threads of the server that have one connection.
fn own_threads(cluster: &Cluster) -> usize {
    cluster.threads(0, "dsm-connection").len()
}

/// Has the server's thread of this name run on that processor only.
fn pin(cluster: &Cluster, name: &str, processor: usize) {
    // A thread takes its name itself once it runs, and the server is ready before that.
    wait_for(name, DEADLINE, || !cluster.threads(0, name).is_empty());
    let mut there = CpuSet::new();
    there.set(processor).unwrap();
    cluster
        .threads(0, name)
        .into_iter()
        .for_each(|thread| sched_setaffinity(thread, &there).unwrap());
}

/// For each of the server's epoll instances, the clients' ports of the connections that it watches.
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

/// A client whose connections ask from one processor, until it is told to stop; every reply is
/// checked.
struct Asking {
    ports: BTreeSet<u16>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Asking {
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

impl Drop for Asking {
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
    let reply = wire.ask(id, Operation::Read(Extent::new(0, 8, K).unwrap()));
    assert_eq!(
        (reply.code(), reply.payload.len()),
        (None, 8),
        "{}",
        reply.text()
    );
}

#[test]
fn connections_share_threads_while_there_are_more_than_the_limit_and_have_their_own_again_after() {
    let cluster = cluster();
    let greeted = || Wire::greeted(cluster.layout(), 0);
    let mut wires = vec![greeted(), greeted()];
    wait_for("two threads for two connections", DEADLINE, || {
        own_threads(&cluster) == 2
    });
    for round in 0..3 {
        wires.extend([greeted(), greeted(), greeted()]);
        wait_for("no thread for one connection alone", DEADLINE, || {
            own_threads(&cluster) == 0
        });
        wires.iter_mut().for_each(|wire| read(wire, 10 * round + 1));
        wires.drain(..3);
        wait_for("two threads for two connections again", DEADLINE, || {
            own_threads(&cluster) == 2
        });
        wires.iter_mut().for_each(|wire| read(wire, 10 * round + 2));
    }
}

#[test]
fn requests_that_are_under_way_while_connections_move_are_answered_in_order() {
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
                    Operation::Write(Extent::new(id % 512 * 8, 8, K).unwrap(), &id.to_le_bytes()),
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
fn connections_from_one_processor_meet_on_the_thread_there_which_never_gets_many_more_than_another()
{
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
        Asking::from(first, wires(even)),
        Asking::from(second, wires(odd)),
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
    let same = Asking::from(first, (0..12).map(greeted).collect());
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
fn a_write_that_waits_for_a_snapshot_holds_up_no_read_on_the_same_thread() {
    let cluster = cluster();
    // Each shared thread has several of them.
    let mut wires: Vec<Wire> = (0..32)
        .map(|_| Wire::greeted(cluster.layout(), 0))
        .collect();
    wait_for("no thread for one connection alone", DEADLINE, || {
        own_threads(&cluster) == 0
    });
    let segment = Segment::attach(cluster.layout(), 0).unwrap();
    let mut claim = segment.claim().unwrap().unwrap();
    let frozen = claim.freeze(LEASE).unwrap();
    let (writers, readers) = wires.split_at_mut(16);
    for wire in writers.iter_mut() {
        wire.send(&encoded(
            1,
            Operation::Write(Extent::new(64, 8, K).unwrap(), b"12345678"),
        ));
    }
    let began = Instant::now();
    for id in 1..100 {
        readers.iter_mut().for_each(|wire| read(wire, id));
    }
    assert!(
        began.elapsed() < LEASE / 2,
        "reads took {:?} while writers stood still",
        began.elapsed()
    );
    // Nobody has written meanwhile.
    let word = readers[0].ask(100, Operation::Read(Extent::new(64, 8, K).unwrap()));
    assert_eq!(word.payload, [0; 8]);
    drop(frozen);
    for wire in writers {
        assert_eq!(wire.reply().code(), None);
    }
    assert_eq!(
        readers[0]
            .ask(101, Operation::Read(Extent::new(64, 8, K).unwrap()))
            .payload,
        b"12345678"
    );
}
