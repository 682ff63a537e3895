//! The checked parameters of a load.

use super::arguments::BenchArgs;
use crate::cli::failure::CliFailure;
use crate::cli::human;
use dsm_core::layout::{Layout, MAX_ATOMIC};
use dsm_core::segment::CLIENT_WORKERS;
use std::time::Duration;

/// The most connections, since each takes a thread.
pub(super) const MAX_CONNECTIONS: u64 = 1000;

/// The most requests in flight on a connection, which is the limit of the library's pipeline.
pub(super) const MAX_DEPTH: u64 = 128;

/// The most bytes of data in flight on all connections, and so about the memory that dsmctl needs.
const MAX_BYTES_IN_FLIGHT: u64 = 1 << 30;

/// Bytes of the word that an addition changes.
const WORD: u64 = 8;

/// The operation of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestKind {
    Read,
    Write,
    Add,
}

impl RequestKind {
    pub(super) const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Add];

    /// The plural, for the table and for JSON.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Read => "reads",
            Self::Write => "writes",
            Self::Add => "adds",
        }
    }
}

/// The operation of the requests that change memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum Change {
    Write,
    Add,
}

/// The order of the addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum AddressPattern {
    Random,
    Sequential,
}

/// How requests reach the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum RequestPath {
    /// As mcomp.cfg says.
    Auto,
    /// Over TCP to every server.
    Tcp,
    /// Through the shared memory of every server.
    Local,
}

/// The end of the measurement, unless a signal or an error ends it earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoadEnd {
    After(Duration),
    /// After this many requests on all connections together.
    Count(u64),
}

/// The parameters of a load.
#[derive(Debug, Clone)]
pub(super) struct LoadPlan {
    /// The first address of the range; `length` is its length.
    pub(super) address: u64,
    pub(super) length: u64,
    /// Bytes of a request, at most `length`.
    pub(super) size: u64,
    /// The percentage of requests that read.
    pub(super) reads: u64,
    /// The operation of the other requests.
    pub(super) change: RequestKind,
    pub(super) connections: u64,
    pub(super) depth: u64,
    pub(super) end: LoadEnd,
    pub(super) warm_up: Duration,
    pub(super) pattern: AddressPattern,
    pub(super) seed: u64,
    pub(super) path: RequestPath,
}

impl LoadPlan {
    /// Checks the command line and the layout, and makes a plan.
    pub(super) fn new(bench: &BenchArgs, layout: &Layout) -> Result<Self, CliFailure> {
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
        if bench.path == RequestPath::Local && bench.connections > CLIENT_WORKERS as u64 {
            return Err(CliFailure::Usage(format!(
                "{} connections cannot all be local, since a segment has room for \
                 {CLIENT_WORKERS} threads of local programs: make --connections smaller, or \
                 leave --path out",
                bench.connections
            )));
        }
        let bytes_in_flight = bench.connections * bench.depth * bench.size;
        if bytes_in_flight > MAX_BYTES_IN_FLIGHT {
            return Err(CliFailure::Usage(format!(
                "{} connections with {} requests of {} each would have {} in flight, more than \
                 the limit of {}: make --connections, --depth or --size smaller",
                bench.connections,
                bench.depth,
                human::bytes(bench.size),
                human::bytes(bytes_in_flight),
                human::bytes(MAX_BYTES_IN_FLIGHT)
            )));
        }
        Ok(Self {
            address,
            length,
            size: bench.size,
            reads: bench.reads,
            change: if bench.change == Change::Add {
                RequestKind::Add
            } else {
                RequestKind::Write
            },
            connections: bench.connections,
            depth: bench.depth,
            end: bench
                .count
                .map_or(LoadEnd::After(bench.duration), LoadEnd::Count),
            warm_up: bench.warm_up,
            pattern: bench.pattern,
            seed: bench.seed,
            path: bench.path,
        })
    }

    /// The kinds of requests that the load contains.
    pub(super) fn kinds(&self) -> impl Iterator<Item = RequestKind> {
        let (reads, changes) = (self.reads > 0, self.reads < 100);
        let change = self.change;
        RequestKind::ALL.into_iter().filter(move |kind| {
            (*kind == RequestKind::Read && reads) || (*kind == change && changes)
        })
    }

    /// The number of different addresses, at least one.
    pub(super) fn positions(&self) -> u64 {
        self.length / self.size
    }

    /// The number of requests that `connection` makes if all make `count` together.
    pub(super) fn share(&self, connection: u64, count: u64) -> u64 {
        count / self.connections + u64::from(connection < count % self.connections)
    }
}

fn no_range(bench: &BenchArgs, layout: &Layout) -> CliFailure {
    CliFailure::Usage(format!(
        "with --reads {} the other requests overwrite memory: give --range ADDRESS LENGTH to say \
         which part (the whole memory is --range 0 {})",
        bench.reads,
        layout.size()
    ))
}

fn check_size(size: u64, length: u64) -> Result<(), CliFailure> {
    let allowed = "give --size 1 to 1MiB, and at most the length of the range";
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
    Err(CliFailure::Usage(wrong))
}

/// Fails unless every request can add to an aligned word.
fn check_additions(bench: &BenchArgs, address: u64) -> Result<(), CliFailure> {
    let wrong = if bench.reads == 100 {
        "with --reads 100 nothing is added: make --reads less than 100, 0 for additions only"
            .to_owned()
    } else if bench.size != WORD {
        format!(
            "--change add changes words of 8 bytes, but --size is {}: leave --size out",
            bench.size
        )
    } else if !address.is_multiple_of(WORD) {
        let (down, up) = (address & !7, address.next_multiple_of(WORD));
        format!(
            "--change add needs aligned words, but the range begins at {address}, which is not a \
             multiple of 8: use {down} or {up}"
        )
    } else {
        return Ok(());
    };
    Err(CliFailure::Usage(wrong))
}
