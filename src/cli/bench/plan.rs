//! What is asked for, once it is known to make sense.

use super::arguments::Bench;
use crate::cli::failure::Failure;
use crate::cli::human;
use dsm_core::layout::{Layout, MAX_ATOMIC};
use dsm_core::segment::CLIENT_WORKERS;
use std::time::Duration;

/// The most connections: each takes a thread.
pub(super) const MAX_CONNECTIONS: u64 = 1000;

/// The most requests under way on a connection: as many as the library's pipeline takes.
pub(super) const MAX_DEPTH: u64 = 128;

/// Bytes of data that may be under way on all connections, and so about what dsmctl takes of this
/// machine's memory.
const MAX_UNDER_WAY: u64 = 1 << 30;

/// Bytes of a word, which is what an addition changes.
const WORD: u64 = 8;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Add,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Add];

    /// Several of them, in the table and in JSON.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Read => "reads",
            Self::Write => "writes",
            Self::Add => "adds",
        }
    }
}

/// What requests do that change memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum Change {
    Write,
    Add,
}

/// In which order addresses come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum Pattern {
    Random,
    Sequential,
}

/// The way that requests shall take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum Path {
    /// As mcomp.cfg says.
    Auto,
    /// To every server over TCP.
    Tcp,
    /// To every server through its shared memory.
    Local,
}

/// When a measurement ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    After(Duration),
    /// So many requests, on all connections.
    Count(u64),
}

/// Everything that decides which requests are made.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The first address and the length of the range.
    pub(super) address: u64,
    pub(super) length: u64,
    /// Bytes of a request; at least one fits the range.
    pub(super) size: u64,
    /// Of 100 requests, so many read.
    pub(super) reads: u64,
    /// What the others do.
    pub(super) change: Kind,
    pub(super) connections: u64,
    pub(super) depth: u64,
    pub(super) end: End,
    pub(super) warm_up: Duration,
    pub(super) pattern: Pattern,
    pub(super) seed: u64,
    pub(super) path: Path,
}

impl Plan {
    /// Checks what the command line asks for.
    pub(super) fn new(bench: &Bench, layout: &Layout) -> Result<Self, Failure> {
        let changes = bench.reads < 100;
        let (address, length) = match bench.range.given() {
            Some(range) => range,
            None if changes => return Err(no_range(bench, layout)),
            None => (0, layout.size()),
        };
        layout.pieces(address, length).map(drop)?;
        check_size(bench.size, length)?;
        if bench.change == Change::Add {
            check_additions(bench, address)?;
        }
        if bench.path == Path::Local && bench.connections > CLIENT_WORKERS as u64 {
            return Err(Failure::Usage(format!(
                "{} connections cannot all be local: a segment has room for {CLIENT_WORKERS} threads of local programs. Make \
                 --connections smaller, or leave --path out",
                bench.connections
            )));
        }
        let under_way = bench.connections * bench.depth * bench.size;
        if under_way > MAX_UNDER_WAY {
            return Err(Failure::Usage(format!(
                "{} connections with {} requests of {} each would have {} under way: allowed are {}. Make one of --connections, --depth and --size smaller",
                bench.connections,
                bench.depth,
                human::bytes(bench.size),
                human::bytes(under_way),
                human::bytes(MAX_UNDER_WAY)
            )));
        }
        Ok(Self {
            address,
            length,
            size: bench.size,
            reads: bench.reads,
            change: if bench.change == Change::Add {
                Kind::Add
            } else {
                Kind::Write
            },
            connections: bench.connections,
            depth: bench.depth,
            end: bench.count.map_or(End::After(bench.duration), End::Count),
            warm_up: bench.warm_up,
            pattern: bench.pattern,
            seed: bench.seed,
            path: bench.path,
        })
    }

    /// The kinds of requests that there are.
    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> {
        let (reads, changes) = (self.reads > 0, self.reads < 100);
        let change = self.change;
        Kind::ALL
            .into_iter()
            .filter(move |kind| (*kind == Kind::Read && reads) || (*kind == change && changes))
    }

    /// How many different addresses there are; at least one.
    pub(super) fn places(&self) -> u64 {
        self.length / self.size
    }

    /// How many of `count` requests are the connection's.
    pub(super) fn share(&self, connection: u64, count: u64) -> u64 {
        count / self.connections + u64::from(connection < count % self.connections)
    }
}

fn no_range(bench: &Bench, layout: &Layout) -> Failure {
    Failure::Usage(format!(
        "with --reads {} the other requests change memory, and what was there is gone: say where they may, \
         with --range ADDRESS LENGTH (the whole memory is --range 0 {})",
        bench.reads,
        layout.size()
    ))
}

fn check_size(size: u64, length: u64) -> Result<(), Failure> {
    let allowed = "allowed is --size 1 to 1MiB, and not more than the range has";
    let wrong = if size == 0 {
        format!("a request of no bytes measures nothing: {allowed}")
    } else if size > MAX_ATOMIC {
        format!(
            "a request of {} is too long: {allowed}",
            human::exact_bytes(size)
        )
    } else if size > length {
        let (size, length) = (human::exact_bytes(size), human::exact_bytes(length));
        format!("a request of {size} does not fit a range of {length}: {allowed}")
    } else {
        return Ok(());
    };
    Err(Failure::Usage(wrong))
}

/// Additions are to words, and so must the places be.
fn check_additions(bench: &Bench, address: u64) -> Result<(), Failure> {
    let wrong = if bench.reads == 100 {
        "with --reads 100 nothing is added: make --reads less than 100, 0 for additions only"
            .to_owned()
    } else if bench.size != WORD {
        format!(
            "an addition is to a word of 8 bytes, not of {}: leave --size out",
            bench.size
        )
    } else if !address.is_multiple_of(WORD) {
        let (down, up) = (address & !7, address.next_multiple_of(WORD));
        format!(
            "additions are to aligned words: the range begins at {address}, which is not a multiple of 8, as {down} and {up} are"
        )
    } else {
        return Ok(());
    };
    Err(Failure::Usage(wrong))
}
