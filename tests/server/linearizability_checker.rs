//! Tests the checker of histories: with histories known to be right and wrong, and against brute
//! force.

use dsm_core::protocol::AtomicOperation;
use proptest::prelude::*;
use support::linearizability::{HistoryAction, HistoryEvent, SearchVerdict, apply, check};

const LIMIT: u64 = 1_000_000;

fn event(called: u64, returned: impl Into<Option<u64>>, action: HistoryAction) -> HistoryEvent {
    HistoryEvent {
        client: 0,
        action,
        called,
        returned: returned.into(),
    }
}

fn read(first: usize, values: &[u64]) -> HistoryAction {
    HistoryAction::Read {
        first,
        values: values.to_vec(),
    }
}

fn write(first: usize, values: &[u64]) -> HistoryAction {
    HistoryAction::Write {
        first,
        values: values.to_vec(),
    }
}

fn add(cell: usize, operand: u64, old: impl Into<Option<u64>>) -> HistoryAction {
    HistoryAction::Atomic {
        cell,
        operation: AtomicOperation::Add(operand),
        old: old.into(),
    }
}

fn swap_if(cell: usize, expected: u64, new: u64, old: impl Into<Option<u64>>) -> HistoryAction {
    HistoryAction::Atomic {
        cell,
        operation: AtomicOperation::CompareAndSwap { expected, new },
        old: old.into(),
    }
}

#[track_caller]
fn accepts(initial: &[u64], history: &[HistoryEvent]) {
    assert_eq!(check(initial, history, LIMIT), SearchVerdict::Linearizable);
}

#[track_caller]
fn rejects(initial: &[u64], history: &[HistoryEvent]) {
    let verdict = check(initial, history, LIMIT);
    assert!(
        matches!(verdict, SearchVerdict::Violation(_)),
        "{verdict:?}"
    );
}

#[test]
fn an_empty_history_is_accepted() {
    accepts(&[0, 0], &[]);
}

#[test]
fn a_stale_read_is_rejected() {
    let written = event(0, 1, write(0, &[7]));
    accepts(&[0], &[written.clone(), event(2, 3, read(0, &[7]))]);
    rejects(&[0], &[written, event(2, 3, read(0, &[0]))]);
}

#[test]
fn a_read_during_a_write_may_see_either_but_not_go_back() {
    let written = event(0, 10, write(0, &[7]));
    for values in [[0, 0], [0, 7], [7, 7]] {
        let [first, second] = values.map(|value| read(0, &[value]));
        accepts(
            &[0],
            &[written.clone(), event(1, 2, first), event(3, 4, second)],
        );
    }
    rejects(
        &[0],
        &[
            written,
            event(1, 2, read(0, &[7])),
            event(3, 4, read(0, &[0])),
        ],
    );
}

#[test]
fn a_value_that_no_client_wrote_is_rejected() {
    rejects(
        &[0],
        &[event(0, 10, write(0, &[7])), event(1, 2, read(0, &[8]))],
    );
}

#[test]
fn a_lost_update_is_rejected() {
    accepts(
        &[0],
        &[
            event(0, 10, add(0, 1, 0)),
            event(0, 10, add(0, 1, 1)),
            event(11, 12, read(0, &[2])),
        ],
    );
    rejects(
        &[0],
        &[
            event(0, 10, add(0, 1, 0)),
            event(0, 10, add(0, 1, 0)),
            event(11, 12, read(0, &[1])),
        ],
    );
}

#[test]
fn a_doubly_applied_add_is_rejected() {
    rejects(
        &[0],
        &[event(0, 1, add(0, 1, 0)), event(2, 3, read(0, &[2]))],
    );
    rejects(
        &[0],
        &[event(0, None, add(0, 1, None)), event(2, 3, read(0, &[2]))],
    );
}

#[test]
fn a_torn_read_of_several_cells_is_rejected() {
    let written = event(0, 10, write(0, &[7, 7, 7]));
    accepts(
        &[0; 3],
        &[written.clone(), event(1, 9, read(0, &[0, 0, 0]))],
    );
    accepts(
        &[0; 3],
        &[written.clone(), event(1, 9, read(0, &[7, 7, 7]))],
    );
    rejects(&[0; 3], &[written, event(1, 9, read(0, &[7, 7, 0]))]);
}

#[test]
fn cells_that_one_operation_connects_are_ordered_together() {
    // Each cell on its own is fine: the write of y is seen, that of x not yet. Together the read
    // shows an impossible order.
    let history = [
        event(0, 1, write(0, &[1])),
        event(2, 3, write(1, &[1])),
        event(2, 9, read(0, &[0, 1])),
    ];
    rejects(&[0, 0], &history);
    let alone = [
        event(0, 5, write(0, &[1])),
        event(2, 3, write(1, &[1])),
        event(2, 9, read(0, &[0, 1])),
    ];
    accepts(&[0, 0], &alone);
}

#[test]
fn the_order_of_real_time_is_kept() {
    let (first, second) = (event(0, 1, write(0, &[1])), event(2, 3, write(0, &[2])));
    accepts(
        &[0],
        &[first.clone(), second.clone(), event(4, 5, read(0, &[2]))],
    );
    rejects(&[0], &[first, second, event(4, 5, read(0, &[1]))]);
    // A call at the instant of a return is concurrent with it.
    accepts(
        &[0],
        &[event(0, 2, write(0, &[1])), event(2, 3, read(0, &[0]))],
    );
}

#[test]
fn an_unknown_outcome_may_take_effect_late_or_never_but_not_twice() {
    let unknown = event(0, None, write(0, &[7]));
    for values in [[0, 0], [0, 7], [7, 7]] {
        let [first, second] = values.map(|value| read(0, &[value]));
        accepts(
            &[0],
            &[unknown.clone(), event(10, 11, first), event(12, 13, second)],
        );
    }
    rejects(
        &[0],
        &[
            unknown.clone(),
            event(10, 11, read(0, &[7])),
            event(12, 13, read(0, &[0])),
        ],
    );
    // Executing it twice would undo the write of 8.
    let history = [
        unknown,
        event(10, 11, read(0, &[7])),
        event(12, 13, write(0, &[8])),
        event(14, 15, read(0, &[7])),
    ];
    rejects(&[0], &history);
    // It cannot take effect before it was called.
    rejects(
        &[0],
        &[event(0, 1, read(0, &[7])), event(2, None, write(0, &[7]))],
    );
}

#[test]
fn a_failed_comparison_changes_nothing() {
    accepts(
        &[5],
        &[event(0, 1, swap_if(0, 4, 9, 5)), event(2, 3, read(0, &[5]))],
    );
    rejects(
        &[5],
        &[event(0, 1, swap_if(0, 5, 9, 5)), event(2, 3, read(0, &[5]))],
    );
    rejects(
        &[5],
        &[event(0, 1, swap_if(0, 4, 9, 4)), event(2, 3, read(0, &[9]))],
    );
}

#[test]
fn a_copy_takes_what_is_there_at_one_instant() {
    let copy = |called, returned| {
        event(
            called,
            returned,
            HistoryAction::Copy {
                from: 0,
                to: 1,
                count: 2,
            },
        )
    };
    accepts(&[1, 2, 3], &[copy(0, 1), event(2, 3, read(0, &[1, 1, 2]))]);
    rejects(&[1, 2, 3], &[copy(0, 1), event(2, 3, read(0, &[1, 1, 1]))]);
    rejects(&[1, 2, 3], &[copy(4, 5), event(2, 3, read(0, &[1, 1, 2]))]);
}

#[test]
fn a_long_history_of_many_clients_is_decided_quickly() {
    // 8 clients, 4,000 adds, each overlapping its 7 neighbours: infeasible unless the search
    // remembers visited states.
    let history: Vec<HistoryEvent> = (0..4000)
        .map(|i| event(i * 10, i * 10 + 75, add(0, 1, i)))
        .collect();
    assert_eq!(check(&[0], &history, 200_000), SearchVerdict::Linearizable);
    let mut wrong = history;
    wrong[3000].action = add(0, 1, 17);
    assert!(matches!(
        check(&[0], &wrong, 200_000),
        SearchVerdict::Violation(_)
    ));
}

/// A pseudo-random but reproducible history: 10,000 operations, 8 at a time. One in `every` has an
/// unknown outcome, and half of those were not executed.
fn long_history(every: u64) -> Vec<HistoryEvent> {
    let mut number = 1_u64;
    let mut below = |bound: u64| {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (number >> 33) % bound
    };
    let mut state = vec![0; CELLS];
    let mut history = Vec::new();
    for index in 0..10_000 {
        let kind = u8::try_from(below(7)).expect("a small number");
        let [cell, count] =
            [below(3), below(3)].map(|value| usize::try_from(value).expect("a small number"));
        let mut discarded = state.clone();
        let target = if index % (2 * every) == 2 * every - 1 {
            &mut discarded
        } else {
            &mut state
        };
        let action = execute(target, (kind, cell, count + 1, 1000 + index, 2000 + index));
        let now = 1000 + 10 * index;
        let mut event = event(now - below(40), now + below(40), action);
        if index % every == every - 1 {
            forget_result(&mut event);
        }
        history.push(event);
    }
    history
}

#[test]
fn a_long_history_with_unknown_outcomes_is_decided_quickly() {
    assert_eq!(
        check(&[0; CELLS], &long_history(500), LIMIT),
        SearchVerdict::Linearizable
    );
    // Rejecting takes longer: every choice of unknown outcomes must be tried.
    let mut history = long_history(2500);
    let wrong = history
        .iter_mut()
        .skip(7000)
        .find_map(|event| match &mut event.action {
            HistoryAction::Read { values, .. } if event.returned.is_some() => values.first_mut(),
            _ => None,
        });
    *wrong.unwrap() = 17;
    let verdict = check(&[0; CELLS], &history, LIMIT);
    assert!(
        matches!(verdict, SearchVerdict::Violation(_)),
        "{verdict:?}"
    );
}

#[test]
fn a_search_that_is_too_long_says_that_it_is_undecided() {
    // 24 overlapping writes of different cells' values and a last read that fits none of their
    // orders.
    let mut history: Vec<HistoryEvent> = (0..24)
        .map(|i| event(0, 100, add(0, 1 << i, None)))
        .collect();
    history.push(event(0, 100, read(0, &[1 << 40])));
    let verdict = check(&[0], &history, 5000);
    assert_eq!(verdict, SearchVerdict::Undecided { steps: 5001 });
}

/// Tries every order of every choice of unknown outcomes.
fn brute_force(state: &[u64], rest: &[HistoryEvent]) -> bool {
    if rest.iter().all(|event| event.returned.is_none()) {
        return true;
    }
    (0..rest.len()).any(|chosen| {
        let event = &rest[chosen];
        let overtaken = rest.iter().any(|other| {
            other
                .returned
                .is_some_and(|returned| returned < event.called)
        });
        if overtaken {
            return false;
        }
        let others: Vec<HistoryEvent> = rest[..chosen]
            .iter()
            .chain(&rest[chosen + 1..])
            .cloned()
            .collect();
        let unchanged =
            matches!(event.action, HistoryAction::Interrupted(_)).then(|| state.to_vec());
        apply(state, &event.action)
            .into_iter()
            .chain(unchanged)
            .any(|after| brute_force(&after, &others))
    })
}

const CELLS: usize = 3;

/// An action without its result: kind, cell, count, operands.
type Draft = (u8, usize, usize, u64, u64);

fn draft() -> impl Strategy<Value = Draft> {
    (0_u8..7, 0..CELLS, 1..=CELLS, 0_u64..3, 0_u64..3)
}

/// Executes a draft on the state and returns the action with its true result.
fn execute(state: &mut Vec<u64>, (kind, cell, count, a, b): Draft) -> HistoryAction {
    let count = count.min(CELLS - cell);
    let atomic = |operation, state: &[u64]| HistoryAction::Atomic {
        cell,
        operation,
        old: Some(state[cell]),
    };
    let action = match kind {
        0 | 1 => read(cell, &state[cell..cell + count]),
        2 => write(cell, &vec![a; count]),
        3 => atomic(AtomicOperation::Add(a), state),
        4 => atomic(AtomicOperation::Swap(a), state),
        5 => atomic(
            AtomicOperation::CompareAndSwap {
                expected: a,
                new: b,
            },
            state,
        ),
        _ => HistoryAction::Copy {
            from: cell,
            to: CELLS - count,
            count,
        },
    };
    *state = apply(state, &action).expect("a true result fits");
    action
}

fn forget_result(event: &mut HistoryEvent) {
    event.returned = None;
    if let HistoryAction::Atomic { old, .. } = &mut event.action {
        *old = None;
    }
}

/// A history of a sequential execution: operation i takes effect at 10 i, is called up to `overlap`
/// before and returns up to `overlap` after. Some lose their outcome; some of those were not
/// executed.
fn legal(overlap: u64, length: usize) -> impl Strategy<Value = Vec<HistoryEvent>> {
    let one = (draft(), 0..=overlap, 0..=overlap, 0_u8..12);
    proptest::collection::vec(one, 0..length).prop_map(|drafts| {
        let mut state = vec![0; CELLS];
        let mut history = Vec::new();
        for (index, (draft, before, after, fate)) in drafts.into_iter().enumerate() {
            let now = 1000 + 10 * index as u64;
            let mut discarded = state.clone();
            let never = fate == 0;
            let action = execute(if never { &mut discarded } else { &mut state }, draft);
            let mut event = event(now - before, now + after, action);
            event.client = index;
            if fate < 2 {
                forget_result(&mut event);
            }
            history.push(event);
        }
        history
    })
}

/// Changes one result, which may make the history wrong.
fn mutate(history: &mut [HistoryEvent], which: usize, by: u64) {
    let count = history.len().max(1);
    if let Some(event) = history.get_mut(which % count) {
        match &mut event.action {
            HistoryAction::Read { values, .. } | HistoryAction::Write { values, .. } => {
                let place = which % values.len();
                values[place] = values[place].wrapping_add(by) % 4;
            }
            HistoryAction::Atomic { old: Some(old), .. } => *old = old.wrapping_add(by) % 4,
            HistoryAction::Copy { to, .. } => *to = 0,
            HistoryAction::Atomic { .. } | HistoryAction::Interrupted(_) => {}
        }
    }
}

/// Makes it unknown whether an event took effect, unless it is a read.
fn kill(history: &mut [HistoryEvent], which: usize) {
    let count = history.len().max(1);
    if let Some(event) = history.get_mut(which % count)
        && !matches!(
            event.action,
            HistoryAction::Read { .. } | HistoryAction::Interrupted(_)
        )
    {
        let mut action = event.action.clone();
        if let HistoryAction::Atomic { old, .. } = &mut action {
            *old = None;
        }
        event.action = HistoryAction::Interrupted(Box::new(action));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_history_that_happened_is_accepted(history in legal(60, 60)) {
        prop_assert_eq!(check(&[0; CELLS], &history, LIMIT), SearchVerdict::Linearizable);
    }

    #[test]
    fn the_checker_agrees_with_brute_force_on_histories_with_killed_clients(
        history in legal(25, 8), killed in proptest::collection::vec(any::<usize>(), 1..4),
        changes in proptest::collection::vec((any::<usize>(), 1_u64..4), 0..3)
    ) {
        let mut history = history;
        killed.into_iter().for_each(|which| kill(&mut history, which));
        for (which, by) in changes {
            mutate(&mut history, which, by);
        }
        let expected = brute_force(&[0; CELLS], &history);
        let verdict = check(&[0; CELLS], &history, LIMIT);
        prop_assert!(matches!((&verdict, expected), (SearchVerdict::Linearizable, true) | (SearchVerdict::Violation(_), false)),
            "brute force says {expected}, the checker {verdict:?}");
    }

    #[test]
    fn the_checker_agrees_with_brute_force_on_changed_histories(
        history in legal(25, 8), changes in proptest::collection::vec((any::<usize>(), 1_u64..4), 1..3)
    ) {
        let mut history = history;
        for (which, by) in changes {
            mutate(&mut history, which, by);
        }
        let expected = brute_force(&[0; CELLS], &history);
        let verdict = check(&[0; CELLS], &history, LIMIT);
        prop_assert!(matches!((&verdict, expected), (SearchVerdict::Linearizable, true) | (SearchVerdict::Violation(_), false)),
            "brute force says {expected}, the checker {verdict:?}");
    }
}
