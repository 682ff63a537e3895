//! The version of a page: a word that says whether the page is being written, and since which cut it
//! may differ.
//!
//! ```text
//! bits 40 to 63   the epoch: the low bits of the number of the latest cut when the page was last written
//! bits 36 to 39   the flags
//! bits 0 to 35    the counter: odd while the page is being written, and another number after every change
//! ```
//!
//! Zero: the page was never written. The counter skips zero, and never reaches the flags.
//!
//! The word changes only under the stripe of its page. Workers that find a flag of [`LOCKED`] wait
//! until it is cleared; a change wakes those that wait for it on a page with [`WAITED`]. No worker
//! of this version sets a flag: they are for changes of several segments at once, and for waiting
//! for a value, and every worker of this format respects them.

/// Bits of the counter.
const COUNTER: u64 = (1 << 36) - 1;

/// The bit of the counter that is set while the page is being written.
const WRITING: u64 = 1;

/// The page may neither be read nor written.
pub(super) const WRITE_LOCKED: u64 = 1 << 36;

/// The page may not be written.
pub(super) const READ_LOCKED: u64 = 1 << 37;

/// Processes wait in `futex(2)` for a change of the low half of the word.
pub(super) const WAITED: u64 = 1 << 38;

/// The flags that keep writers out.
pub(super) const LOCKED: u64 = WRITE_LOCKED | READ_LOCKED;

const EPOCH_SHIFT: u32 = 40;

/// The version while the page is being written. Also right for a page whose writer died.
#[inline]
pub(super) fn begin(version: u64) -> u64 {
    version | WRITING
}

/// The version after the page was written, if the latest cut has this number. [`WAITED`] is
/// cleared: the caller wakes those that wait.
#[inline]
pub(super) fn end(version: u64, cut: u64) -> u64 {
    let counter = (version & COUNTER).wrapping_add(1) & COUNTER;
    // After the largest counter comes zero, which would mean that the page was never written.
    let counter = if counter == 0 { 2 } else { counter };
    cut << EPOCH_SHIFT | version & LOCKED | counter
}

/// Whether a page with this version can be read: it is neither being written nor locked.
#[inline]
pub(super) fn is_readable(version: u64) -> bool {
    version & (WRITING | WRITE_LOCKED) == 0
}

/// The version of a page that has `version` in format 3, whose counter has 64 bits. The page counts
/// as written since the cut of this number. Converting twice gives the same version.
pub(super) fn of_format_3(version: u64, cut: u64) -> u64 {
    match version & COUNTER {
        _ if version == 0 => 0,
        0 => cut << EPOCH_SHIFT | 2,
        counter => cut << EPOCH_SHIFT | counter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The number of the latest cut, if only its low bits matter.
    fn epoch(version: u64) -> u64 {
        version >> EPOCH_SHIFT
    }

    #[test]
    fn the_counter_wraps_inside_its_bits_and_never_to_zero() {
        let last = end(begin(COUNTER - 1), 7);
        assert_eq!((last & COUNTER, epoch(last)), (2, 7));
        assert!(is_readable(last));
        // A redo ends the same change: the version that it finds is odd again, or already even.
        assert_eq!(end(begin(COUNTER), 7), last);
    }

    #[test]
    fn a_converted_counter_of_any_size_is_even_and_not_zero() {
        for old in [2, COUNTER - 1, COUNTER + 1, 1 << 63, u64::MAX - 1] {
            let new = of_format_3(old, 5);
            assert!(is_readable(new) && new & COUNTER != 0, "{old}: {new}");
        }
        assert_eq!(of_format_3(0, 5), 0);
    }

    proptest! {
        #[test]
        fn a_change_gives_another_version_with_the_locks_of_before(version: u64, cut: u64) {
            let (odd, next) = (begin(version), end(begin(version), cut));
            prop_assert!(!is_readable(odd));
            prop_assert_ne!(next & COUNTER, version & COUNTER);
            prop_assert_eq!(next & 1, 0);
            prop_assert_eq!(next & LOCKED, version & LOCKED);
            prop_assert_eq!(next & WAITED, 0);
            prop_assert_eq!(epoch(next), cut & 0xff_ffff);
        }

        #[test]
        fn a_page_is_converted_once(version: u64, cut: u64) {
            let new = of_format_3(version, cut);
            prop_assert_eq!(of_format_3(new, cut), new);
            prop_assert_eq!(new & (LOCKED | WAITED), 0);
            prop_assert_eq!(new == 0, version == 0);
        }
    }
}
