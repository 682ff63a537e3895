//! Splits a copy into steps, each inside one server or from one server to another.

use dsm_core::layout::Layout;

/// The longest step from one server to another, in bytes: this process holds it in its memory.
const MAX_CARRIED: u64 = 4 << 20;

/// One part of a copy. Each step is to be finished before the next one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// First address of the source.
    pub(super) from: u64,
    /// First address of the destination.
    pub(super) to: u64,
    /// Bytes; never zero.
    pub(super) length: u64,
    /// Whether both are on one server.
    pub(super) same_server: bool,
}

/// Whether a copy must run from the last byte to the first, so that it overwrites nothing that it
/// has not read yet.
pub(super) fn is_backward(from: u64, to: u64, length: u64) -> bool {
    from < to && to - from < length
}

/// The steps of a copy inside the memory, in an order that gives the result of memmove(3).
pub(super) fn steps(
    layout: &Layout,
    from: u64,
    to: u64,
    length: u64,
) -> impl Iterator<Item = Step> + use<> {
    let k = layout.share_size();
    let backward = is_backward(from, to, length);
    let mut rest = length;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        // Bytes until the source or the destination leaves its server.
        let (source, target, reach): (u64, u64, fn(u64, u64) -> u64) = if backward {
            (from + rest - 1, to + rest - 1, |last, k| last % k + 1)
        } else {
            (from + (length - rest), to + (length - rest), |first, k| {
                k - first % k
            })
        };
        let same_server = source / k == target / k;
        let bound = if same_server { u64::MAX } else { MAX_CARRIED };
        let step = rest.min(reach(source, k)).min(reach(target, k)).min(bound);
        rest -= step;
        let done_before = if backward { rest } else { length - rest - step };
        Some(Step {
            from: from + done_before,
            to: to + done_before,
            length: step,
            same_server,
        })
    })
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)] // small memories
mod tests {
    use super::*;
    use dsm_core::layout::PAGE;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_steps_give_what_memmove_gives(n in 1_usize..5, from in 0_usize..20_000, to in 0_usize..20_000, length in 0_usize..20_000) {
            let layout = Layout::new("dsm", PAGE, (0..n).map(|i| format!("h:{i}")).collect()).unwrap();
            let size = usize::try_from(layout.size()).unwrap();
            let (from, to) = (from % size, to % size);
            let length = length.min(size - from.max(to));
            let mut memory: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let mut expected = memory.clone();
            expected.copy_within(from..from + length, to);
            for step in steps(&layout, from as u64, to as u64, length as u64) {
                let (source, target, length) = (step.from as usize, step.to as usize, step.length as usize);
                prop_assert!(length > 0);
                let servers = [source, source + length - 1, target, target + length - 1].map(|a| a as u64 / PAGE);
                prop_assert_eq!((servers[0], servers[2]), (servers[1], servers[3]));
                prop_assert_eq!(step.same_server, servers[0] == servers[2]);
                memory.copy_within(source..source + length, target);
            }
            prop_assert_eq!(memory, expected);
        }
    }

    #[test]
    fn what_is_carried_through_the_client_is_bounded() {
        let layout = Layout::new("dsm", 64 << 20, vec!["a:1".into(), "b:1".into()]).unwrap();
        let all: Vec<Step> = steps(&layout, 0, 64 << 20, 64 << 20).collect();
        assert_eq!(all.len(), 16);
        assert!(
            all.iter()
                .all(|step| step.length == MAX_CARRIED && !step.same_server)
        );
    }
}
