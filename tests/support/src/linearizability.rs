//! Checks whether a history of operations on a few cells is linearizable.
//!
//! The algorithm is Wing and Gong's search ("Testing and verifying concurrent objects", JPDC 1993)
//! with Lowe's cache of visited configurations ("Testing for linearizability", 2017): a set of
//! operations and a state that were reached before are not searched again.
//!
//! A cell holds one `u64`. Operations may span adjacent cells. The history is therefore split into
//! connected groups of cells. Each group is searched separately, because linearizability is local.

use dsm_core::protocol::AtomicOperation;
use std::collections::HashSet;

/// An operation of a client, with its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistoryAction {
    /// These values were found in adjacent cells.
    Read {
        /// The first cell.
        first: usize,
        /// What was found, a value per cell.
        values: Vec<u64>,
    },
    /// These values were put into adjacent cells.
    Write {
        /// The first cell.
        first: usize,
        /// What was written, a value per cell.
        values: Vec<u64>,
    },
    /// One cell was changed, and its old value returned.
    Atomic {
        /// The cell.
        cell: usize,
        /// The change.
        operation: AtomicOperation,
        /// The value returned; `None` when the outcome is unknown.
        old: Option<u64>,
    },
    /// Adjacent cells were copied to others, as memmove would.
    Copy {
        /// The first cell of the source.
        from: usize,
        /// The first cell of the destination.
        to: usize,
        /// How many cells.
        count: usize,
    },
    /// The client was killed during this operation: it took effect as a whole, or never will.
    Interrupted(Box<HistoryAction>),
}

/// One operation, with the instants of its call and its return. It took effect between these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEvent {
    /// The number of the client, for the text of a violation.
    pub client: usize,
    /// What was done.
    pub action: HistoryAction,
    /// When it was called, on a clock common to all clients.
    pub called: u64,
    /// When it returned. `None` when the outcome is unknown: it may take effect at any later time,
    /// or never. It precedes another operation only if this is less than the other's `called`.
    pub returned: Option<u64>,
}

/// The result of the search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchVerdict {
    /// There is an order that explains every result.
    Linearizable,
    /// No order explains every result. The text shows where the longest attempt ended.
    Violation(String),
    /// The search reached its limit of steps without a result. A smaller history may have one.
    Undecided {
        /// Steps taken.
        steps: u64,
    },
}

/// Searches for an order of `history` that starts from `initial` (a value per cell) and explains
/// every result. Each connected group of cells may take `limit` steps.
#[must_use]
pub fn check(initial: &[u64], history: &[HistoryEvent], limit: u64) -> SearchVerdict {
    for group in groups(initial.len(), history) {
        let events = history
            .iter()
            .filter(|event| group.contains(&cells(&event.action)[0]))
            .collect();
        let verdict = Search::new(initial, group, events).run(limit);
        if verdict != SearchVerdict::Linearizable {
            return verdict;
        }
    }
    SearchVerdict::Linearizable
}

/// The cells that an action touches; at least one.
fn cells(action: &HistoryAction) -> Vec<usize> {
    match *action {
        HistoryAction::Read { first, ref values } | HistoryAction::Write { first, ref values } => {
            (first..first + values.len()).collect()
        }
        HistoryAction::Atomic { cell, .. } => vec![cell],
        HistoryAction::Copy { from, to, count } => {
            (from..from + count).chain(to..to + count).collect()
        }
        HistoryAction::Interrupted(ref action) => cells(action),
    }
}

/// The connected groups of cells: two cells are connected when one operation touches both.
fn groups(count: usize, history: &[HistoryEvent]) -> Vec<Vec<usize>> {
    let mut label: Vec<usize> = (0..count).collect();
    for event in history {
        let touched = cells(&event.action);
        let first = label[touched[0]];
        for cell in touched {
            let other = label[cell];
            label
                .iter_mut()
                .filter(|label| **label == other)
                .for_each(|label| *label = first);
        }
    }
    let mut names = label.clone();
    names.sort_unstable();
    names.dedup();
    names
        .iter()
        .map(|name| (0..count).filter(|&cell| label[cell] == *name).collect())
        .collect()
}

/// The state after an action, or `None` when its result cannot come from this state.
pub fn apply(state: &[u64], action: &HistoryAction) -> Option<Vec<u64>> {
    let mut after = state.to_vec();
    match *action {
        HistoryAction::Read { first, ref values } => {
            (state[first..first + values.len()] == values[..]).then_some(after)
        }
        HistoryAction::Write { first, ref values } => {
            after[first..first + values.len()].copy_from_slice(values);
            Some(after)
        }
        HistoryAction::Atomic {
            cell,
            operation,
            old,
        } => {
            if old.is_some_and(|old| old != state[cell]) {
                return None;
            }
            after[cell] = operation.apply(state[cell]).unwrap_or(state[cell]);
            Some(after)
        }
        HistoryAction::Copy { from, to, count } => {
            after[to..to + count].copy_from_slice(&state[from..from + count]);
            Some(after)
        }
        // The case in which the operation takes effect. The search handles the other case.
        HistoryAction::Interrupted(ref action) => apply(state, action),
    }
}

/// Whether the result shows that the operation changes no cell, at any place in the order. The
/// search may choose such an operation as soon as it fits: no other choice can be better.
fn changes_nothing(action: &HistoryAction) -> bool {
    match *action {
        HistoryAction::Read { .. } => true,
        HistoryAction::Atomic {
            operation,
            old: Some(old),
            ..
        } => operation.apply(old).is_none_or(|new| new == old),
        _ => false,
    }
}

/// One entry of the time line of calls and returns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TimelineEntry {
    /// The two ends.
    End,
    /// This event was called.
    Call(usize),
    /// This event returned.
    Return,
}

/// One decision of the search.
struct SearchStep {
    /// The operations that may come next and were not tried. The best is the last.
    candidates: Vec<usize>,
    /// The chosen operation, and the state before it.
    chosen: Option<(usize, Vec<u64>)>,
    /// One more than the greatest index of an event chosen so far.
    reach: usize,
}

struct Search<'a> {
    group: Vec<usize>,
    /// In order of their calls.
    events: Vec<&'a HistoryEvent>,
    state: Vec<u64>,
    /// The number of events with a known outcome that are not yet in the order.
    open: usize,
    timeline: Vec<TimelineEntry>,
    /// A doubly linked list over `timeline`, without the events that are already in the order.
    next: Vec<usize>,
    previous: Vec<usize>,
    /// For each event, the indices in `timeline` of its call and its return.
    places: Vec<(usize, Option<usize>)>,
    visited: HashSet<Box<[u64]>>,
    /// The longest attempt: the fewest open events, the state then, and the candidates, of which
    /// none fit.
    stuck: (usize, Vec<u64>, Vec<usize>),
}

impl<'a> Search<'a> {
    fn new(initial: &[u64], group: Vec<usize>, mut events: Vec<&'a HistoryEvent>) -> Self {
        // A read without a result constrains nothing.
        events.retain(|event| {
            event.returned.is_some() || !matches!(event.action, HistoryAction::Read { .. })
        });
        events.sort_by_key(|event| event.called);
        // A call at the instant of a return is concurrent with it, so calls come first.
        let mut line: Vec<(u64, bool, usize)> = Vec::with_capacity(events.len() * 2);
        for (index, event) in events.iter().enumerate() {
            line.push((event.called, false, index));
            line.extend(event.returned.map(|returned| (returned, true, index)));
        }
        line.sort_unstable();
        let mut timeline = vec![TimelineEntry::End];
        let mut places = vec![(0, None); events.len()];
        for (_, is_return, index) in line {
            let place = timeline.len();
            if is_return {
                places[index].1 = Some(place);
                timeline.push(TimelineEntry::Return);
            } else {
                places[index].0 = place;
                timeline.push(TimelineEntry::Call(index));
            }
        }
        timeline.push(TimelineEntry::End);
        let open = events
            .iter()
            .filter(|event| event.returned.is_some())
            .count();
        Self {
            group,
            state: initial.to_vec(),
            open,
            next: (1..=timeline.len()).collect(),
            previous: (0..timeline.len())
                .map(|place| place.saturating_sub(1))
                .collect(),
            timeline,
            places,
            visited: HashSet::new(),
            stuck: (usize::MAX, Vec::new(), Vec::new()),
            events,
        }
    }

    fn run(mut self, limit: u64) -> SearchVerdict {
        let mut steps = 0;
        let mut stack = vec![self.step(0)];
        while self.open > 0 {
            let Some(step) = stack.last_mut() else {
                return SearchVerdict::Violation(self.explain());
            };
            let Some(candidate) = step.candidates.pop() else {
                stack.pop();
                if let Some(SearchStep { chosen, .. }) = stack.last_mut()
                    && let Some((event, before)) = chosen.take()
                {
                    self.put_back(event);
                    self.state = before;
                }
                continue;
            };
            steps += 1;
            if steps > limit {
                return SearchVerdict::Undecided { steps };
            }
            // A candidate beyond the number of events means that its event takes no effect.
            let event = candidate % self.events.len();
            let after = if candidate == event {
                apply(&self.state, &self.events[event].action)
            } else {
                Some(self.state.clone())
            };
            let Some(after) = after else { continue };
            let reach = step.reach.max(event + 1);
            self.take_out(event);
            if self.visited.insert(self.configuration(reach, &after)) {
                step.chosen = Some((event, std::mem::replace(&mut self.state, after)));
                stack.push(self.step(reach));
            } else {
                self.put_back(event);
            }
        }
        SearchVerdict::Linearizable
    }

    /// The events called before the first return in the time line.
    fn minimal(&self) -> Vec<usize> {
        let mut found = Vec::new();
        let mut place = self.next[0];
        while let TimelineEntry::Call(event) = self.timeline[place] {
            found.push(event);
            place = self.next[place];
        }
        found
    }

    fn step(&mut self, reach: usize) -> SearchStep {
        let mut candidates = self.minimal();
        if self.open < self.stuck.0 {
            self.stuck = (self.open, self.state.clone(), candidates.clone());
        }
        let fits = |&event: &usize| {
            let action = &self.events[event].action;
            changes_nothing(action) && apply(&self.state, action).is_some()
        };
        if let Some(event) = candidates.iter().copied().find(fits) {
            candidates = vec![event];
        } else {
            // An operation with an unknown outcome that would change nothing here is not needed.
            candidates.retain(|&event| {
                let event = self.events[event];
                event.returned.is_some()
                    || apply(&self.state, &event.action).is_some_and(|after| after != self.state)
            });
            // Most often the operation that returned first took effect first. Unknown outcomes are
            // tried last.
            candidates.sort_by_key(|&event| {
                std::cmp::Reverse(self.events[event].returned.unwrap_or(u64::MAX))
            });
            let ways = |event: usize| {
                let is_uncertain =
                    matches!(self.events[event].action, HistoryAction::Interrupted(_));
                is_uncertain
                    .then(|| event + self.events.len())
                    .into_iter()
                    .chain([event])
            };
            candidates = candidates.into_iter().flat_map(ways).collect();
        }
        SearchStep {
            candidates,
            chosen: None,
            reach,
        }
    }

    /// The set of events in the order, and the state: `reach`, the events below it that are not in
    /// the order, the cells.
    fn configuration(&self, reach: usize, state: &[u64]) -> Box<[u64]> {
        let mut key = vec![reach as u64];
        let mut place = self.next[0];
        loop {
            match self.timeline[place] {
                TimelineEntry::Call(event) if event < reach => key.push(event as u64),
                TimelineEntry::Return => {}
                TimelineEntry::Call(_) | TimelineEntry::End => break,
            }
            place = self.next[place];
        }
        key.push(u64::MAX);
        key.extend(self.group.iter().map(|&cell| state[cell]));
        key.into()
    }

    fn take_out(&mut self, event: usize) {
        let (call, end) = self.places[event];
        for place in std::iter::once(call).chain(end) {
            let (before, after) = (self.previous[place], self.next[place]);
            self.next[before] = after;
            self.previous[after] = before;
        }
        self.open -= usize::from(end.is_some());
    }

    /// Undoes the last [`Search::take_out`] that has not been undone.
    fn put_back(&mut self, event: usize) {
        let (call, end) = self.places[event];
        for place in end.into_iter().chain(Some(call)) {
            let (before, after) = (self.previous[place], self.next[place]);
            self.next[before] = place;
            self.previous[after] = place;
        }
        self.open += usize::from(end.is_some());
    }

    fn explain(&self) -> String {
        use std::fmt::Write;
        let (open, state, waiting) = &self.stuck;
        let known = self
            .events
            .iter()
            .filter(|event| event.returned.is_some())
            .count();
        let cells: Vec<String> = self
            .group
            .iter()
            .map(|&cell| format!("{cell}: {:#x}", state[cell]))
            .collect();
        let mut text = format!(
            "no order explains the results of cells {:?}: {} of {known} operations fit, which leaves {{{}}}; none of these fits next:",
            self.group,
            known - open,
            cells.join(", ")
        );
        for &event in waiting {
            let _ = write!(text, "\n  {:x?}", self.events[event]);
        }
        text
    }
}
