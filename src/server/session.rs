//! The sessions of the segment: which connection may execute requests of a session, and what the
//! session has executed.
//!
//! At most one connection, the newest, executes requests of a session. Sessions survive a restart
//! of dsmd in the segment; the least recently used one without a connection is evicted for a new
//! one.

use dsm_config::MAX_CONNECTIONS;
use dsm_core::protocol::Sessions;
use dsm_core::segment::{RequestId, SESSIONS, Segment};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

// The self-probe needs a session too: with every client connected, each finds one that no other
// uses.
const _: () = assert!(MAX_CONNECTIONS < SESSIONS);

/// A session's entry in the segment, with the lock under which its requests are executed.
struct SessionState {
    /// Index into the segment's table.
    index: usize,
    /// Counts the connections that have attached; only the newest may execute.
    newest: Mutex<u64>,
}

/// A connection's right to execute requests of a session, until a newer connection attaches.
pub(super) struct SessionAttachment {
    state: Arc<SessionState>,
    number: u64,
}

/// Held while requests of a session are executed: no other connection executes any of them.
pub(super) struct SessionLock<'a> {
    index: usize,
    _lock: MutexGuard<'a, u64>,
}

impl SessionAttachment {
    /// Whether a newer connection has taken over the session. Never blocks: while a request of the
    /// session is being executed, the answer is no.
    pub(super) fn is_superseded(&self) -> bool {
        self.state
            .newest
            .try_lock()
            .is_ok_and(|newest| *newest != self.number)
    }

    /// Locks the session. `None` when a newer connection has taken it over.
    pub(super) fn lock(&self) -> Option<SessionLock<'_>> {
        let lock = self
            .state
            .newest
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (*lock == self.number).then_some(SessionLock {
            index: self.state.index,
            _lock: lock,
        })
    }
}

impl SessionLock<'_> {
    /// Identifies request `sequence` of this session in the segment.
    pub(super) fn request_id(&self, sequence: u64) -> RequestId {
        RequestId {
            session: self.index,
            sequence,
        }
    }
}

/// The result of a hello.
pub(super) struct Attached {
    pub(super) attachment: SessionAttachment,
    /// The id of the last change that was executed; zero for none.
    pub(super) last_executed: u64,
    /// The session existed already.
    pub(super) resumed: bool,
}

struct TableEntry {
    id: [u8; 16],
    state: Arc<SessionState>,
    /// Connections that hold a [`SessionAttachment`]; more than one only until the older ones
    /// notice.
    attached: usize,
    /// When it was last used, by `clock`: the order of eviction.
    last_use: u64,
}

struct SessionTableInner {
    by_id: HashMap<[u8; 16], usize>,
    /// By index into the segment's table.
    entries: Vec<Option<TableEntry>>,
    /// A logical clock: the order of use in this process.
    clock: u64,
    evicted: u64,
    /// The latest time written to the segment: the order of use across restarts.
    noted: u64,
    wall: fn() -> u64,
}

/// The sessions of the segment.
pub(super) struct SessionTable {
    segment: Segment,
    table: Mutex<SessionTableInner>,
}

impl SessionTable {
    /// Reads the sessions that the segment holds.
    pub(super) fn new(segment: Segment) -> Self {
        Self::with_clock(segment, now)
    }

    fn with_clock(segment: Segment, wall: fn() -> u64) -> Self {
        let mut known: Vec<_> = segment.sessions().collect();
        known.sort_by_key(|entry| entry.opened);
        let entries = (0..SESSIONS).map(|_| None).collect();
        let mut table = SessionTableInner {
            by_id: HashMap::new(),
            entries,
            clock: 0,
            evicted: 0,
            noted: 0,
            wall,
        };
        let started = wall();
        for entry in known {
            table.clock += 1;
            table.insert(entry.index, entry.id);
            table.noted = if entry.opened > started {
                // The wall clock was ahead when the session was used. The session keeps its place
                // in the order, and sessions used from now on come after it.
                let opened = started.max(table.noted.saturating_add(1));
                segment.touch_session(entry.index, opened);
                opened
            } else {
                entry.opened
            };
        }
        Self {
            segment,
            table: Mutex::new(table),
        }
    }

    /// Attaches the caller's connection to session `id`. Returns after the request that an older
    /// connection is executing for it, so that what is reported as executed is final.
    ///
    /// # Errors
    ///
    /// `None` when every session has a connection.
    pub(super) fn attach(&self, id: [u8; 16]) -> Option<Attached> {
        let mut table = self.lock();
        table.clock += 1;
        let resumed = table.by_id.contains_key(&id);
        let now = table.note();
        let known = table.by_id.get(&id).copied();
        let index = if let Some(index) = known {
            index
        } else {
            let index = table.make_room()?;
            self.segment.begin_session(index, id, now);
            table.insert(index, id);
            index
        };
        self.segment.touch_session(index, now);
        let clock = table.clock;
        // `insert` or `by_id` has just returned the index of an entry.
        #[allow(clippy::expect_used)]
        let entry = table.entries[index].as_mut().expect("an entry of this id");
        entry.last_use = clock;
        entry.attached += 1;
        let state = Arc::clone(&entry.state);
        drop(table);

        let mut newest = state.newest.lock().unwrap_or_else(PoisonError::into_inner);
        *newest += 1;
        let number = *newest;
        let last_executed = self.segment.last_executed(index);
        drop(newest);
        Some(Attached {
            attachment: SessionAttachment { state, number },
            last_executed,
            resumed,
        })
    }

    /// A connection of the session has closed; the session stays until its entry is needed.
    pub(super) fn detach(&self, attachment: &SessionAttachment) {
        let mut table = self.lock();
        if let Some(entry) = table.entries[attachment.state.index].as_mut()
            && Arc::ptr_eq(&entry.state, &attachment.state)
        {
            entry.attached = entry.attached.saturating_sub(1);
        }
    }

    /// Marks the sessions of open connections as in use, in the segment too. After a restart no
    /// connection is attached, and the order of use decides which sessions are evicted. To be
    /// called periodically.
    pub(super) fn touch_attached(&self) {
        let mut table = self.lock();
        table.clock += 1;
        let (clock, now) = (table.clock, table.note());
        for (index, entry) in table.entries.iter_mut().enumerate() {
            if let Some(entry) = entry.as_mut().filter(|entry| entry.attached > 0) {
                entry.last_use = clock;
                self.segment.touch_session(index, now);
            }
        }
    }

    /// For the status.
    pub(super) fn status(&self) -> Sessions {
        let table = self.lock();
        let mut sessions = Sessions::default();
        sessions.used = table.by_id.len() as u64;
        sessions.limit = SESSIONS as u64;
        sessions.evicted = table.evicted;
        sessions
    }

    fn lock(&self) -> MutexGuard<'_, SessionTableInner> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nanoseconds since 1970; a u64 holds them until 2554.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

impl SessionTableInner {
    /// The time to record for a use now: later than every recorded time, although the wall clock
    /// may have been set back.
    fn note(&mut self) -> u64 {
        self.noted = (self.wall)().max(self.noted.saturating_add(1));
        self.noted
    }

    fn insert(&mut self, index: usize, id: [u8; 16]) {
        let state = Arc::new(SessionState {
            index,
            newest: Mutex::new(0),
        });
        self.by_id.insert(id, index);
        self.entries[index] = Some(TableEntry {
            id,
            state,
            attached: 0,
            last_use: self.clock,
        });
    }

    /// The index of a free entry; evicts the least recently used session without a connection if
    /// there is none. `None` if all sessions have connections.
    fn make_room(&mut self) -> Option<usize> {
        if let Some(free) = self.entries.iter().position(Option::is_none) {
            return Some(free);
        }
        let idle = self
            .entries
            .iter()
            .flatten()
            .filter(|entry| entry.attached == 0);
        let oldest = idle.min_by_key(|entry| entry.last_use)?;
        let (index, id) = (oldest.state.index, oldest.id);
        self.entries[index] = None;
        self.by_id.remove(&id);
        self.evicted += 1;
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dsm_core::layout::{Layout, PAGE};
    use dsm_core::segment::Start;
    use std::cell::Cell;
    use std::ops::ControlFlow;

    fn id(number: usize) -> [u8; 16] {
        (number as u128 + 1).to_le_bytes()
    }

    fn attach(table: &SessionTable, number: usize) -> Attached {
        table.attach(id(number)).unwrap()
    }

    fn with_segment(what: &str, body: impl FnOnce(Segment)) {
        let name = format!("dsmtest-{}-{what}", std::process::id());
        let layout = Layout::new(&name, PAGE, vec!["127.0.0.1:7411".to_owned()]).unwrap();
        let segment = Segment::serve(&layout, 0, Start::Serve, &mut |_, _| {
            ControlFlow::Continue(())
        })
        .unwrap()
        .segment;
        // The names are not needed once everything is open: removing them now leaves nothing
        // behind, whatever happens below.
        for entry in std::fs::read_dir("/dev/shm").unwrap().flatten() {
            if entry
                .file_name()
                .to_string_lossy()
                .contains(&format!("{name}."))
            {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        body(segment);
    }

    #[test]
    fn a_session_in_use_outlives_idle_ones_also_across_a_restart() {
        with_segment("evict", |segment| {
            let table = SessionTable::new(segment.clone());
            let old = attach(&table, 0);
            let others = |table: &SessionTable, from: usize| {
                for number in from..from + SESSIONS + 100 {
                    let attached = attach(table, number);
                    table.detach(&attached.attachment);
                }
            };
            others(&table, 1);
            assert!(attach(&table, 0).resumed, "evicted while it was attached");
            table.touch_attached();
            drop(old);
            // A new process knows only what the segment holds.
            let restarted = SessionTable::new(segment);
            for number in 0..SESSIONS - 1 {
                attach(&restarted, 100_000 + number);
            }
            assert!(
                attach(&restarted, 0).resumed,
                "evicted though it was the last in use before the restart"
            );
            assert_eq!(restarted.status().used, SESSIONS as u64);
        });
    }

    #[test]
    fn a_session_that_has_a_connection_is_never_evicted() {
        with_segment("all-attached", |segment| {
            let table = SessionTable::new(segment);
            let attached: Vec<_> = (0..SESSIONS).map(|number| attach(&table, number)).collect();
            assert!(table.attach(id(SESSIONS)).is_none());
            table.detach(&attached[17].attachment);
            assert!(table.attach(id(SESSIONS)).is_some());
            assert!(
                table.attach(id(17)).is_none(),
                "it was evicted, and all others are in use"
            );
        });
    }

    const DAY: u64 = 24 * 3600 * 1_000_000_000;

    /// The wall clock of the tests that set it; each test runs in its own thread.
    fn wall() -> u64 {
        WALL.get()
    }

    thread_local! {
        static WALL: Cell<u64> = const { Cell::new(0) };
    }

    /// Fails unless session `number` is the first that a full table evicts.
    fn assert_first_evicted(table: &SessionTable, number: usize) {
        assert_eq!(table.status().used, SESSIONS as u64);
        attach(table, 1_000_000);
        let known = table.lock().by_id.contains_key(&id(number));
        assert!(!known, "it was kept instead of one that was used later");
    }

    #[test]
    fn sessions_are_evicted_in_the_order_of_use_although_the_clock_was_ahead() {
        with_segment("clock-ahead", |segment| {
            let today = now();
            let table = SessionTable::with_clock(segment.clone(), wall);
            let used = |number| table.detach(&attach(&table, number).attachment);
            WALL.set(today + DAY);
            used(0);
            // The clock is corrected.
            WALL.set(today);
            (1..SESSIONS).for_each(used);
            WALL.set(today + 1_000_000_000);
            assert_first_evicted(&SessionTable::with_clock(segment, wall), 0);
        });
    }

    #[test]
    fn times_in_the_future_that_an_older_dsmd_left_do_not_outlast_the_start() {
        with_segment("clock-future", |segment| {
            let today = now();
            WALL.set(today);
            for (number, opened) in [(0, today + DAY), (1, u64::MAX), (2, today - DAY)] {
                segment.begin_session(number, id(number), opened);
            }
            drop(SessionTable::with_clock(segment.clone(), wall));
            let opened: Vec<u64> = segment.sessions().map(|entry| entry.opened).collect();
            assert_eq!(opened, [today, today + 1, today - DAY]);
            // Sessions that are used now come after them, also at the next start.
            let table = SessionTable::with_clock(segment.clone(), wall);
            (2..SESSIONS).for_each(|number| table.detach(&attach(&table, number).attachment));
            drop(table);
            assert_first_evicted(&SessionTable::with_clock(segment, wall), 0);
        });
    }

    #[test]
    fn a_newer_connection_takes_over_the_session_and_learns_what_was_executed() {
        with_segment("takeover", |segment| {
            let table = SessionTable::new(segment.clone());
            let first = attach(&table, 1);
            assert!(first.attachment.lock().is_some() && !first.resumed);
            let second = attach(&table, 1);
            assert!(first.attachment.lock().is_none() && second.resumed);
            assert!(second.attachment.lock().is_some());
        });
    }
}
