//! `dsmctl snapshot diff`: prints the ranges in which a snapshot differs from another one or from
//! the live memory.

use super::arguments::DiffArgs;
use super::cursor::SnapshotCursor;
use super::file;
use super::report::Report;
use crate::cli::arguments::GlobalOptions;
use crate::cli::context::CommandContext;
use crate::cli::failure::CliFailure;
use crate::cli::human;
use crate::cli::output;
use dsm_client::Client;
use dsm_core::layout::{Layout, MAX_ATOMIC};
use dsm_snapshot::SnapshotFile;
use std::ops::Range;

/// Bytes that are compared at a time: the most that one server reads atomically.
const WINDOW: u64 = MAX_ATOMIC;

/// One of the two memories that are compared.
enum Side {
    Snapshot(Box<SnapshotFile>),
    Live(Box<CommandContext>),
}

/// Reads one of the two memories in ascending order.
enum SideReader<'a> {
    Snapshot(Box<SnapshotCursor<'a>>),
    Live(&'a Client),
}

/// Returns whether they are equal.
pub(super) fn run(diff: &DiffArgs, global: &GlobalOptions) -> Result<bool, CliFailure> {
    let ours = Side::Snapshot(Box::new(file::open(&diff.file, global)?));
    let theirs = match &diff.other {
        Some(other) => Side::Snapshot(Box::new(file::open(other, global)?)),
        None => Side::Live(Box::new(CommandContext::open(global)?)),
    };
    let regions = match diff.range.given() {
        Some((address, length)) => {
            ours.check(address, length)?;
            theirs.check(address, length)?;
            std::iter::once(address..address + length).collect()
        }
        None => common(&ours, &theirs)?,
    };
    let other = matches!(theirs, Side::Snapshot(_)).then(|| theirs.name());
    let total = regions.iter().map(|region| region.end - region.start).sum();
    let mut report = Report::begin(&ours.name(), other.as_deref(), total, global.json)?;
    let compared = regions
        .into_iter()
        .try_for_each(|region| compare(&ours, &theirs, region, &mut report));
    match compared.and_then(|()| report.finish()) {
        // The reader of standard output has closed it. The exit code still reports the ranges found
        // so far.
        Ok(()) | Err(CliFailure::OutputClosed) => Ok(report.is_equal()),
        Err(failure) => Err(failure),
    }
}

impl Side {
    fn layout(&self) -> &Layout {
        match self {
            Self::Snapshot(snapshot) => snapshot.header().layout(),
            Self::Live(context) => context.layout(),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Snapshot(snapshot) => snapshot.path().display().to_string(),
            Self::Live(_) => "the live memory".to_owned(),
        }
    }

    /// Fails unless this memory contains the whole range.
    fn check(&self, address: u64, length: u64) -> Result<(), CliFailure> {
        let inside = self.layout().pieces(address, length).map(drop);
        inside.map_err(|error| CliFailure::Outside {
            what: self.name(),
            error,
        })?;
        match self {
            Self::Snapshot(snapshot) => Ok(snapshot.check_range(address, length)?),
            Self::Live(_) => Ok(()),
        }
    }

    /// The servers that this snapshot lacks, with their addresses.
    fn missing(&self) -> Vec<(usize, Range<u64>)> {
        let Self::Snapshot(snapshot) = self else {
            return Vec::new();
        };
        let header = snapshot.header();
        let missing = (0..header.layout().server_count()).filter(|server| !header.has(*server));
        missing
            .map(|server| (server, header.addresses_of(server)))
            .collect()
    }

    fn reader(&self, region: &Range<u64>) -> Result<SideReader<'_>, CliFailure> {
        Ok(match self {
            Self::Snapshot(snapshot) => {
                SideReader::Snapshot(Box::new(SnapshotCursor::new(snapshot, region.clone())?))
            }
            Self::Live(context) => SideReader::Live(&context.client),
        })
    }
}

impl SideReader<'_> {
    /// The first address, not below `from`, at which a byte may differ from zero.
    fn next_covered(&mut self, from: u64) -> Result<Option<u64>, CliFailure> {
        match self {
            Self::Snapshot(cursor) => cursor.next_covered(from),
            Self::Live(_) => Ok(Some(from)),
        }
    }

    fn fill(&mut self, address: u64, buffer: &mut [u8]) -> Result<(), CliFailure> {
        match self {
            Self::Snapshot(cursor) => cursor.fill(address, buffer),
            Self::Live(client) => Ok(client.read_into(address, buffer)?),
        }
    }
}

/// The addresses that both memories have. Prints a message about those that only one has.
fn common(ours: &Side, theirs: &Side) -> Result<Vec<Range<u64>>, CliFailure> {
    let size = ours.layout().size().min(theirs.layout().size());
    let shape = |side: &Side| (side.layout().share_size(), side.layout().server_count());
    if shape(ours) != shape(theirs) {
        let described = [ours, theirs]
            .map(|side| format!("{} has {}", side.name(), human::servers(side.layout())));
        let last = size - 1;
        output::print_error(format_args!(
            "{}: only addresses 0 to {last} are compared",
            described.join(", ")
        ));
    }
    let mut regions: Vec<Range<u64>> = std::iter::once(0..size).collect();
    for side in [ours, theirs] {
        for (server, addresses) in side.missing() {
            let (name, last) = (side.name(), addresses.end - 1);
            let place = format!("addresses {} to {last} are not compared", addresses.start);
            output::print_error(format_args!(
                "server {server} is missing from {name}: {place}"
            ));
            regions = regions
                .into_iter()
                .flat_map(|region| without(region, &addresses))
                .collect();
        }
    }
    if regions.is_empty() {
        return Err(CliFailure::NothingInCommon {
            first: ours.name(),
            second: theirs.name(),
        });
    }
    Ok(regions)
}

/// The parts of `region` outside `hole`.
fn without(region: Range<u64>, hole: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let before = region.start..region.end.min(hole.start);
    let after = region.start.max(hole.end)..region.end;
    [before, after].into_iter().filter(|part| !part.is_empty())
}

/// Compares a region, window by window.
fn compare(
    ours: &Side,
    theirs: &Side,
    region: Range<u64>,
    report: &mut Report,
) -> Result<(), CliFailure> {
    let (mut ours, mut theirs) = (ours.reader(&region)?, theirs.reader(&region)?);
    let (mut our_bytes, mut their_bytes) = (Vec::new(), Vec::new());
    let mut at = region.start;
    while at < region.end {
        // Addresses without a frame are zeros in both.
        let covered = [ours.next_covered(at)?, theirs.next_covered(at)?];
        let next = covered
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(region.end)
            .min(region.end);
        report.skip(next - at);
        at = next;
        // At most `WINDOW`, which fits a usize.
        let length = usize::try_from(WINDOW.min(region.end - at)).unwrap_or(usize::MAX);
        our_bytes.resize(length, 0);
        their_bytes.resize(length, 0);
        // Reads the live memory first: if that fails, no frame is decompressed in vain.
        theirs
            .fill(at, &mut their_bytes)
            .map_err(|failure| report.failed(failure))?;
        ours.fill(at, &mut our_bytes)
            .map_err(|failure| report.failed(failure))?;
        report.window(at, &our_bytes, &their_bytes)?;
        at += length as u64;
    }
    Ok(())
}
