//! Looks host names up without blocking the caller: the system's resolver may take its own time,
//! for ever if its server does not answer.
//!
//! A look-up runs in a helper thread. Callers that ask for the same name share it, and an answer is
//! valid for [`VALIDITY`]. A numeric address is never looked up. A child made by `fork(2)` begins
//! with an empty table, because the threads of its parent do not exist there, and one of them may
//! have held the lock.

use super::look_up::look_up;
use crate::sys::own_file::{generation, watch_forks};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long the addresses of a name are used again: long enough for the many connections that a
/// program opens at once, and short enough that a client soon follows a name that has moved.
const VALIDITY: Duration = Duration::from_secs(1);

/// The most helper threads of a process. While the resolver does not answer, so many names wait for
/// it, and the others for them.
const MAX_THREADS: usize = 8;

/// The most names that are being looked up or have a valid answer: more than a network map has, for
/// its servers and agents.
const MAX_NAMES: usize = 4096;

/// The addresses of a name; an error as its kind and its text, because an [`io::Error`] cannot be
/// copied.
type Answer = Result<Vec<SocketAddr>, (io::ErrorKind, String)>;

/// What [`resolve`] knows at once.
#[derive(Debug)]
pub enum Resolution {
    /// The addresses, or why there are none.
    Ready(io::Result<Vec<SocketAddr>>),
    /// A helper thread asks the system.
    Pending(LookUp),
}

/// A look-up in a helper thread. It continues when this is dropped.
#[derive(Debug, Clone)]
pub struct LookUp(Arc<SharedLookUp>);

#[derive(Debug)]
struct SharedLookUp {
    address: String,
    answer: OnceLock<Answer>,
    /// Readable when there is an answer. It is never read, so that it stays so for all callers.
    answered: EventFd,
    /// The generation of the process that has the helper thread.
    generation: u64,
}

/// The look-ups of a process.
struct Resolver {
    generation: u64,
    look_up: fn(&str) -> io::Result<Vec<SocketAddr>>,
    table: Mutex<NameTable>,
    of_child: OnceLock<Box<Resolver>>,
}

struct NameTable {
    names: BTreeMap<String, NameEntry>,
    /// Look-ups that no thread has begun.
    waiting: VecDeque<Arc<SharedLookUp>>,
    threads: usize,
}

enum NameEntry {
    Pending(Arc<SharedLookUp>),
    Known {
        addresses: Vec<SocketAddr>,
        until: Instant,
    },
}

static RESOLVER: Resolver = Resolver::new(0, look_up);

/// The socket addresses of `host:port`. Never blocks.
#[must_use]
pub fn resolve(address: &str) -> Resolution {
    RESOLVER.own().resolve(address)
}

impl Resolution {
    /// Waits for the addresses until the deadline.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`], or why the name was not resolved.
    pub fn wait(self, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Ready(found) => found,
            Self::Pending(look_up) => look_up.wait(deadline),
        }
    }
}

impl LookUp {
    /// The answer; `None` when there is none yet.
    #[must_use]
    pub fn answer(&self) -> Option<io::Result<Vec<SocketAddr>>> {
        if self.0.generation != generation() {
            // The thread that would answer is one of the parent process.
            return Some(Err(io::Error::other(
                "the process was forked during the look-up",
            )));
        }
        let answer = self.0.answer.get()?.clone();
        Some(answer.map_err(|(kind, text)| io::Error::new(kind, text)))
    }

    /// The descriptor that is readable when there is an answer, to wait for with `poll(2)` only.
    #[must_use]
    pub fn for_poll(&self) -> BorrowedFd<'_> {
        self.0.answered.as_fd()
    }

    fn wait(&self, deadline: Instant) -> io::Result<Vec<SocketAddr>> {
        loop {
            if let Some(answer) = self.answer() {
                return answer;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the look-up of the name has not ended",
                ));
            }
            // Rounded up: to wake before the time would mean another turn for nothing.
            let milliseconds = left.as_nanos().div_ceil(1_000_000);
            let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
            match poll(
                &mut [PollFd::new(self.for_poll(), PollFlags::POLLIN)],
                timeout,
            ) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl SharedLookUp {
    fn new(address: &str, generation: u64) -> nix::Result<Self> {
        Ok(Self {
            address: address.to_owned(),
            answer: OnceLock::new(),
            answered: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            generation,
        })
    }

    fn finish(&self, answer: Answer) {
        // One thread begins a look-up, so this is its only answer.
        let _ = self.answer.set(answer);
        // It fails only when the counter is full, which it cannot be.
        let _ = self.answered.write(1);
    }
}

impl Resolver {
    const fn new(generation: u64, look_up: fn(&str) -> io::Result<Vec<SocketAddr>>) -> Self {
        Self {
            generation,
            look_up,
            table: Mutex::new(NameTable {
                names: BTreeMap::new(),
                waiting: VecDeque::new(),
                threads: 0,
            }),
            of_child: OnceLock::new(),
        }
    }

    /// The resolver of this process.
    fn own(&'static self) -> &'static Self {
        let mut found = self;
        while found.generation != generation() {
            found = found
                .of_child
                .get_or_init(|| Box::new(Self::new(generation(), found.look_up)));
        }
        found
    }

    fn table(&self) -> MutexGuard<'_, NameTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resolve(&'static self, address: &str) -> Resolution {
        if let Ok(numeric) = address.parse() {
            return Resolution::Ready(Ok(vec![numeric]));
        }
        match self.begin(address) {
            Ok(resolution) => resolution,
            Err(error) => Resolution::Ready(Err(error)),
        }
    }

    fn begin(&'static self, address: &str) -> io::Result<Resolution> {
        // Before the lock is taken for the first time: a child must find that it is one.
        watch_forks()?;
        let mut table = self.table();
        let now = Instant::now();
        match table.names.get(address) {
            Some(NameEntry::Known { addresses, until }) if now < *until => {
                return Ok(Resolution::Ready(Ok(addresses.clone())));
            }
            Some(NameEntry::Pending(look_up)) => {
                return Ok(Resolution::Pending(LookUp(Arc::clone(look_up))));
            }
            _ => {}
        }
        table.make_room(now)?;
        let look_up = Arc::new(SharedLookUp::new(address, self.generation)?);
        let entry = NameEntry::Pending(Arc::clone(&look_up));
        table.names.insert(address.to_owned(), entry);
        table.waiting.push_back(Arc::clone(&look_up));
        if table.threads < MAX_THREADS {
            table.threads += 1;
            drop(table);
            self.start_thread();
        }
        Ok(Resolution::Pending(LookUp(look_up)))
    }

    fn start_thread(&'static self) {
        let thread = std::thread::Builder::new().name("dsm-resolve".to_owned());
        let Err(error) = thread.spawn(|| self.work()) else {
            return;
        };
        let mut table = self.table();
        table.threads -= 1;
        if table.threads > 0 {
            // Another thread takes over what waits.
            return;
        }
        let stranded = std::mem::take(&mut table.waiting);
        for look_up in &stranded {
            table.names.remove(&look_up.address);
        }
        drop(table);
        for look_up in stranded {
            look_up.finish(Err((
                error.kind(),
                format!("no thread to look it up: {error}"),
            )));
        }
    }

    /// A helper thread: looks names up until none waits.
    fn work(&self) {
        loop {
            let mut table = self.table();
            let Some(look_up) = table.waiting.pop_front() else {
                table.threads -= 1;
                return;
            };
            drop(table);
            let answer =
                (self.look_up)(&look_up.address).map_err(|error| (error.kind(), error.to_string()));
            let mut table = self.table();
            if let Ok(addresses) = &answer {
                let known = NameEntry::Known {
                    addresses: addresses.clone(),
                    until: Instant::now() + VALIDITY,
                };
                table.names.insert(look_up.address.clone(), known);
            } else {
                table.names.remove(&look_up.address);
            }
            drop(table);
            look_up.finish(answer);
        }
    }
}

impl NameTable {
    /// Makes room for another name.
    fn make_room(&mut self, now: Instant) -> io::Result<()> {
        if self.names.len() < MAX_NAMES {
            return Ok(());
        }
        let is_valid = |entry: &NameEntry| match entry {
            NameEntry::Pending(_) => true,
            NameEntry::Known { until, .. } => now < *until,
        };
        self.names.retain(|_, entry| is_valid(entry));
        if self.names.len() < MAX_NAMES {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{MAX_NAMES} names are being looked up, as many as may be"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Long enough for a busy machine.
    const LONG: Duration = Duration::from_secs(20);

    fn resolver(look_up: fn(&str) -> io::Result<Vec<SocketAddr>>) -> &'static Resolver {
        Box::leak(Box::new(Resolver::new(generation(), look_up)))
    }

    fn soon() -> Instant {
        Instant::now() + LONG
    }

    fn never_answers(_: &str) -> io::Result<Vec<SocketAddr>> {
        loop {
            std::thread::park();
        }
    }

    #[test]
    fn a_call_ends_by_its_deadline_although_the_resolver_never_answers() {
        let resolver = resolver(never_answers);
        let began = Instant::now();
        let deadline = began + Duration::from_millis(200);
        let error = resolver.resolve("node1:7411").wait(deadline).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(Instant::now() >= deadline && began.elapsed() < LONG);
        let numeric = resolver.resolve("[::1]:7411").wait(began).unwrap();
        assert_eq!(numeric, ["[::1]:7411".parse().unwrap()]);
    }

    #[test]
    fn many_names_that_are_never_answered_take_a_bounded_number_of_threads() {
        static BEGUN: AtomicUsize = AtomicUsize::new(0);
        let resolver = resolver(|address| {
            BEGUN.fetch_add(1, Ordering::Relaxed);
            never_answers(address)
        });
        for number in 0..5 * MAX_THREADS {
            let resolution = resolver.resolve(&format!("node{number}:7411"));
            assert!(matches!(resolution, Resolution::Pending(_)));
        }
        while BEGUN.load(Ordering::Relaxed) < MAX_THREADS {
            std::thread::yield_now();
        }
        let table = resolver.table();
        assert_eq!(
            (table.threads, table.waiting.len()),
            (MAX_THREADS, 4 * MAX_THREADS)
        );
    }

    #[test]
    fn the_table_of_names_is_bounded_and_forgets_those_whose_time_is_over() {
        let resolver = resolver(never_answers);
        let now = Instant::now();
        let fill = |until| {
            for number in 0..MAX_NAMES {
                let addresses = Vec::new();
                let name = format!("node{number}:7411");
                let entry = NameEntry::Known { addresses, until };
                resolver.table().names.insert(name, entry);
            }
        };
        fill(now + LONG);
        let Resolution::Ready(Err(error)) = resolver.resolve("other:7411") else {
            panic!("one name too many")
        };
        assert!(error.to_string().contains("names are being looked up"));
        fill(now);
        let other = resolver.resolve("other:7411");
        assert!(matches!(other, Resolution::Pending(_)));
        assert_eq!(resolver.table().names.len(), 1);
    }

    /// The look-ups of the next test, and what each returns.
    static ANSWERS: Mutex<Option<Receiver<io::Result<Vec<SocketAddr>>>>> = Mutex::new(None);
    static LOOK_UPS: AtomicUsize = AtomicUsize::new(0);

    fn answers_as_told(_: &str) -> io::Result<Vec<SocketAddr>> {
        LOOK_UPS.fetch_add(1, Ordering::Relaxed);
        let answers = ANSWERS.lock().unwrap();
        answers.as_ref().unwrap().recv().unwrap()
    }

    #[test]
    fn callers_share_a_look_up_and_an_answer_is_used_again_for_a_short_time() {
        let (sender, receiver): (Sender<io::Result<_>>, _) = channel();
        *ANSWERS.lock().unwrap() = Some(receiver);
        let resolver = resolver(answers_as_told);
        let ask = || resolver.resolve("node1:7411");

        let callers = [ask(), ask(), ask()];
        sender
            .send(Err(io::Error::new(io::ErrorKind::NotFound, "unknown")))
            .unwrap();
        for caller in callers {
            let error = caller.wait(soon()).unwrap_err();
            assert_eq!(
                (error.kind(), error.to_string()),
                (io::ErrorKind::NotFound, "unknown".to_owned())
            );
        }
        assert_eq!(LOOK_UPS.load(Ordering::Relaxed), 1);

        let found = ["10.0.0.1:7411".parse().unwrap()];
        let asked = ask();
        sender.send(Ok(found.to_vec())).unwrap();
        assert_eq!(asked.wait(soon()).unwrap(), found, "a failure is not kept");
        let known = Instant::now();
        match ask() {
            Resolution::Ready(again) => assert_eq!(again.unwrap(), found),
            // This machine was slow, and the answer has become invalid.
            Resolution::Pending(_) => assert!(known.elapsed() >= VALIDITY),
        }
        std::thread::sleep(VALIDITY);
        assert!(matches!(ask(), Resolution::Pending(_)));
    }

    #[test]
    fn a_child_of_fork_does_not_wait_for_a_look_up_of_its_parent() {
        let resolver = resolver(never_answers);
        let Resolution::Pending(look_up) = resolver.resolve("node1:7411") else {
            panic!("no name is known yet")
        };
        assert!(look_up.answer().is_none());
        let of_parent = LookUp(Arc::new(
            SharedLookUp::new("node1:7411", generation() + 1).unwrap(),
        ));
        assert!(of_parent.wait(soon()).is_err());
        // The lock of the parent's table is held, as by a thread that the child does not have.
        let parent: &'static Resolver =
            Box::leak(Box::new(Resolver::new(generation() + 1, never_answers)));
        let _held = parent.table();
        let child: &'static Resolver = parent.of_child.get_or_init(|| {
            Box::new(Resolver::new(generation(), |_| {
                Ok(vec!["10.0.0.1:1".parse().unwrap()])
            }))
        });
        assert!(std::ptr::eq(parent.own(), child));
        assert!(parent.own().resolve("node1:7411").wait(soon()).is_ok());
    }
}
