//! Finds the exact ranges in which two memories differ, page by page. Does no I/O.

use dsm_core::layout::PAGE;
use std::ops::Range;

/// Finds the ranges that differ, in ascending order. Adjacent ranges are merged.
#[derive(Debug, Default)]
pub(super) struct Differences {
    /// The last range, which the next bytes may extend.
    open: Option<Range<u64>>,
    /// The number of bytes that differ.
    pub(super) bytes: u64,
    /// The number of complete ranges.
    pub(super) ranges: u64,
}

impl Differences {
    /// Compares the bytes of two memories from `address` on, and calls `emit` for each complete
    /// range. Both slices must have the same length.
    pub(super) fn compare(
        &mut self,
        address: u64,
        ours: &[u8],
        theirs: &[u8],
        mut emit: impl FnMut(Range<u64>),
    ) {
        let page = usize::try_from(PAGE).unwrap_or(usize::MAX);
        let mut start = address;
        for (ours, theirs) in ours.chunks(page).zip(theirs.chunks(page)) {
            // Most pages are equal, and comparing whole pages is fast.
            if ours != theirs {
                self.compare_page(start, ours, theirs, &mut emit);
            }
            start += ours.len() as u64;
        }
    }

    fn compare_page(
        &mut self,
        address: u64,
        ours: &[u8],
        theirs: &[u8],
        emit: &mut impl FnMut(Range<u64>),
    ) {
        let run = |from: usize, differ: bool| {
            let pairs = ours[from..].iter().zip(&theirs[from..]);
            pairs
                .take_while(|(ours, theirs)| (ours != theirs) == differ)
                .count()
        };
        let mut at = 0;
        while at < ours.len() {
            at += run(at, false);
            let length = run(at, true);
            if length > 0 {
                self.add(address + at as u64..address + (at + length) as u64, emit);
            }
            at += length;
        }
    }

    fn add(&mut self, range: Range<u64>, emit: &mut impl FnMut(Range<u64>)) {
        self.bytes += range.end - range.start;
        match &mut self.open {
            Some(open) if open.end == range.start => open.end = range.end,
            _ => {
                self.close(emit);
                self.open = Some(range);
            }
        }
    }

    /// Calls `emit` for the last range, if there is one.
    pub(super) fn close(&mut self, mut emit: impl FnMut(Range<u64>)) {
        if let Some(range) = self.open.take() {
            self.ranges += 1;
            emit(range);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_ranges_are_those_that_comparing_each_byte_finds(
            changes in prop::collection::vec((0_usize..20_000, 1_usize..5000), 0..12),
            window in 1_usize..9000,
        ) {
            let ours = vec![7_u8; 20_000];
            let mut theirs = ours.clone();
            for (at, length) in changes {
                let end = (at + length).min(theirs.len());
                theirs[at..end].fill(8);
            }
            let (mut found, mut differences) = (Vec::new(), Differences::default());
            for (number, (ours, theirs)) in ours.chunks(window).zip(theirs.chunks(window)).enumerate() {
                differences.compare(1000 + (number * window) as u64, ours, theirs, |range| found.push(range));
            }
            differences.close(|range| found.push(range));
            let differing: Vec<u64> = (0..20_000).filter(|at| theirs[*at] == 8).map(|at| 1000 + at as u64).collect();
            let expected: Vec<_> =
                differing.chunk_by(|a, b| a + 1 == *b).map(|run| run[0]..run[run.len() - 1] + 1).collect();
            prop_assert_eq!(differences.bytes, differing.len() as u64);
            prop_assert_eq!(differences.ranges, expected.len() as u64);
            prop_assert_eq!(found, expected);
        }
    }
}
