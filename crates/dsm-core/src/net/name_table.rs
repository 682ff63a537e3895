//! The names that a process looks up, and what it has found: who waits, who is next, and which
//! addresses are used. No I/O: the resolver has the threads and the clock.

use super::resolve::Resolution;
use super::shared_look_up::{Answer, EarlierAnswer, LookUp, SharedLookUp};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long the addresses of a name are used again: long enough for the many connections that a
/// program opens at once, and short enough that a client soon follows a name that has moved.
pub(super) const VALIDITY: Duration = Duration::from_secs(1);

/// How long a caller waits for the look-up of a name that had addresses before, until it gets these:
/// more than a resolver needs that works, and little of a call's deadline. RFC 8767 calls it the
/// client response timer.
const RESPONSE_TIME: Duration = Duration::from_millis(200);

/// The most names that are being looked up or have addresses: more than a network map has, for its
/// servers and agents.
const MAX_NAMES: usize = 4096;

#[derive(Default)]
pub(super) struct NameTable {
    names: BTreeMap<String, NameEntry>,
    /// The names whose look-up no thread has begun, in the order in which they were first asked for.
    waiting: VecDeque<String>,
    /// The helper threads.
    pub(super) threads: usize,
}

#[derive(Default)]
struct NameEntry {
    found: Option<FoundAddresses>,
    look_up: Option<OpenLookUp>,
}

/// The addresses of the last look-up that found some. They stay when they are no longer valid, for
/// the case that the resolver does not answer.
struct FoundAddresses {
    addresses: Vec<SocketAddr>,
    valid_until: Instant,
}

/// A look-up that has not ended.
struct OpenLookUp {
    since: Instant,
    callers: Weak<SharedLookUp>,
}

impl NameTable {
    pub(super) const fn new() -> Self {
        Self {
            names: BTreeMap::new(),
            waiting: VecDeque::new(),
            threads: 0,
        }
    }

    /// What is known about a name, and whether this has begun a look-up, which needs a thread.
    pub(super) fn ask(
        &mut self,
        name: &str,
        now: Instant,
        generation: u64,
    ) -> io::Result<(Resolution, bool)> {
        match self.names.get(name) {
            Some(entry) => {
                if let Some(resolution) = entry.resolution(now) {
                    return Ok((resolution, false));
                }
            }
            None => self.make_room(now)?,
        }
        let entry = self.names.entry(name.to_owned()).or_default();
        let shared = Arc::new(SharedLookUp::new(entry.earlier_answer(now), generation)?);
        let callers = Arc::downgrade(&shared);
        let is_new = entry.look_up.is_none();
        if let Some(look_up) = &mut entry.look_up {
            // The earlier callers have gone. The look-up has kept its place.
            look_up.callers = callers;
        } else {
            entry.look_up = Some(OpenLookUp {
                since: now,
                callers,
            });
            self.waiting.push_back(name.to_owned());
        }
        Ok((Resolution::Pending(LookUp(shared)), is_new))
    }

    /// The next name to look up. A name for which no caller waits any more delays no other, but keeps
    /// its place until there is nothing else to do: otherwise names that are never answered, asked
    /// for in each call of a program, could keep the names behind them from ever being looked up.
    pub(super) fn take(&mut self) -> Option<String> {
        let next = self.waiting.iter().position(|name| self.is_awaited(name));
        if next.is_none() {
            self.drop_abandoned();
        }
        self.waiting.remove(next?)
    }

    /// Notes the answer, and returns to whom to tell it.
    pub(super) fn answered(
        &mut self,
        name: &str,
        answer: &Answer,
        now: Instant,
    ) -> Option<Arc<SharedLookUp>> {
        if let (Ok(addresses), Some(entry)) = (answer, self.names.get_mut(name)) {
            entry.found = Some(FoundAddresses {
                addresses: addresses.clone(),
                valid_until: now + VALIDITY,
            });
        }
        self.end(name)
    }

    /// Ends the look-ups that no thread has begun, and returns to whom to tell it.
    pub(super) fn give_up(&mut self) -> Vec<Arc<SharedLookUp>> {
        let stranded = std::mem::take(&mut self.waiting);
        stranded.iter().filter_map(|name| self.end(name)).collect()
    }

    fn end(&mut self, name: &str) -> Option<Arc<SharedLookUp>> {
        let entry = self.names.get_mut(name)?;
        let callers = entry.look_up.take()?.callers.upgrade();
        if entry.found.is_none() {
            self.names.remove(name);
        }
        callers
    }

    fn is_awaited(&self, name: &str) -> bool {
        let look_up = self
            .names
            .get(name)
            .and_then(|entry| entry.look_up.as_ref());
        look_up.is_some_and(|look_up| look_up.callers.strong_count() > 0)
    }

    /// Forgets the look-ups that no thread has begun and no caller waits for.
    fn drop_abandoned(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let (awaited, abandoned): (VecDeque<_>, VecDeque<_>) =
            waiting.into_iter().partition(|name| self.is_awaited(name));
        self.waiting = awaited;
        for name in abandoned {
            self.end(&name);
        }
    }

    /// Makes room for another name.
    fn make_room(&mut self, now: Instant) -> io::Result<()> {
        if self.names.len() < MAX_NAMES {
            return Ok(());
        }
        self.drop_abandoned();
        self.names
            .retain(|_, entry| entry.look_up.is_some() || entry.valid(now).is_some());
        if self.names.len() < MAX_NAMES {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{MAX_NAMES} names are being looked up, as many as may be"
        )))
    }
}

impl NameEntry {
    /// What a caller gets without a new look-up.
    fn resolution(&self, now: Instant) -> Option<Resolution> {
        let usable = self.valid(now).or_else(|| {
            let found = self.found.as_ref()?;
            (self.look_up.as_ref()?.late_from() <= now).then_some(found)
        });
        if let Some(found) = usable {
            return Some(Resolution::Ready(Ok(found.addresses.clone())));
        }
        let shared = self.look_up.as_ref()?.callers.upgrade()?;
        Some(Resolution::Pending(LookUp(shared)))
    }

    fn valid(&self, now: Instant) -> Option<&FoundAddresses> {
        self.found.as_ref().filter(|found| now < found.valid_until)
    }

    fn earlier_answer(&self, now: Instant) -> Option<EarlierAnswer> {
        let look_up = self.look_up.as_ref();
        self.found.as_ref().map(|found| EarlierAnswer {
            addresses: found.addresses.clone(),
            used_from: look_up.map_or(now + RESPONSE_TIME, OpenLookUp::late_from),
        })
    }
}

impl OpenLookUp {
    fn late_from(&self) -> Instant {
        self.since + RESPONSE_TIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::own_file::generation;
    use std::io::ErrorKind;

    fn ask(table: &mut NameTable, name: &str, now: Instant) -> Resolution {
        table.ask(name, now, generation()).unwrap().0
    }

    fn addresses() -> Vec<SocketAddr> {
        vec!["10.0.0.1:7411".parse().unwrap()]
    }

    fn failed() -> Answer {
        Err((ErrorKind::Other, "no answer".to_owned()))
    }

    /// Lets the table look the name up.
    fn look_up(table: &mut NameTable, name: &str, answer: Answer, now: Instant) {
        let _caller = ask(table, name, now);
        assert_eq!(table.take().as_deref(), Some(name));
        table.answered(name, &answer, now).unwrap().finish(answer);
    }

    fn ready(resolution: &Resolution) -> Option<&[SocketAddr]> {
        match resolution {
            Resolution::Ready(found) => Some(found.as_ref().unwrap()),
            Resolution::Pending(_) => None,
        }
    }

    #[test]
    fn the_table_of_names_is_bounded_and_forgets_first_what_no_caller_needs() {
        let (mut table, now) = (NameTable::new(), Instant::now());
        for number in 0..MAX_NAMES - 1 {
            look_up(&mut table, &format!("node{number}"), Ok(addresses()), now);
        }
        let awaited = ask(&mut table, "awaited", now);
        let error = table.ask("other", now, generation()).unwrap_err();
        assert!(error.to_string().contains("names are being looked up"));
        assert!(ready(&ask(&mut table, "node0", now)).is_some());
        // When the answers are no longer valid, there is room for others, whose callers leave.
        for number in 0..MAX_NAMES {
            ask(&mut table, &format!("other{number}"), now + VALIDITY);
        }
        assert!(table.names.len() <= MAX_NAMES && table.waiting.len() <= MAX_NAMES);
        assert_eq!(table.take().as_deref(), Some("awaited"));
        drop(awaited);
        assert_eq!(table.take(), None);
        assert_eq!(table.names.keys().collect::<Vec<_>>(), ["awaited"]);
    }

    #[test]
    fn a_name_without_a_caller_delays_no_other_and_keeps_its_place() {
        let (mut table, now) = (NameTable::new(), Instant::now());
        let first = ask(&mut table, "first", now);
        let _second = ask(&mut table, "second", now);
        let _third = ask(&mut table, "third", now);
        drop(first);
        assert_eq!(table.take().as_deref(), Some("second"));
        let _again = ask(&mut table, "first", now);
        assert_eq!(table.take().as_deref(), Some("first"));
        assert_eq!(table.take().as_deref(), Some("third"));
    }

    #[test]
    fn a_caller_that_comes_after_the_others_have_gone_shares_their_look_up() {
        let (mut table, now) = (NameTable::new(), Instant::now());
        drop(ask(&mut table, "node1", now));
        let caller = ask(&mut table, "node1", now);
        assert_eq!(table.take().as_deref(), Some("node1"));
        drop(caller);
        let Resolution::Pending(caller) = ask(&mut table, "node1", now) else {
            panic!("nothing is known yet")
        };
        assert_eq!(table.take(), None, "it is looked up already");
        let told = table.answered("node1", &Ok(addresses()), now).unwrap();
        told.finish(Ok(addresses()));
        assert_eq!(caller.answer().unwrap().unwrap(), addresses());
    }

    #[test]
    fn a_name_keeps_its_addresses_while_its_look_up_fails_or_is_late() {
        let (mut table, mut now) = (NameTable::new(), Instant::now());
        look_up(&mut table, "node1", Ok(addresses()), now);
        now += VALIDITY;
        // It fails, twice: the first failure takes nothing away.
        for _ in 0..2 {
            let Resolution::Pending(caller) = ask(&mut table, "node1", now) else {
                panic!("the answer is old")
            };
            let name = table.take().unwrap();
            let told = table.answered(&name, &failed(), now).unwrap();
            told.finish(failed());
            assert_eq!(caller.answer().unwrap().unwrap(), addresses());
        }
        // It is late: callers wait for it together, and once.
        let pending = ask(&mut table, "node1", now);
        assert!(ready(&pending).is_none());
        assert_eq!(table.take().as_deref(), Some("node1"));
        let late = ask(&mut table, "node1", now + RESPONSE_TIME);
        assert_eq!(ready(&late), Some(&addresses()[..]));
        let in_time = pending.wait(now + RESPONSE_TIME * 50);
        assert_eq!(in_time.unwrap(), addresses());
        assert!(Instant::now() >= now + RESPONSE_TIME);
        // A new answer replaces them.
        let other = vec!["10.0.0.2:7411".parse().unwrap()];
        table.answered("node1", &Ok(other.clone()), now);
        assert_eq!(ready(&ask(&mut table, "node1", now)), Some(&other[..]));
    }
}
