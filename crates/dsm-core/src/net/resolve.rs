//! Looks host names up without blocking the caller: the system's resolver may take its own time,
//! for ever if its server does not answer.
//!
//! A look-up runs in a helper thread. Callers that ask for the same name share it, and an answer is
//! valid for a second. A name that had addresses before has them again while the resolver does not
//! answer or fails, as RFC 8767 proposes, so that an outage of the DNS keeps no client from a server.
//! A numeric address is never looked up. A child made by `fork(2)` begins with an empty table,
//! because the threads of its parent do not exist there, and one of them may have held the lock.

use super::look_up::look_up;
use super::name_table::NameTable;
use super::shared_look_up::LookUp;
use crate::sys::own_file::{generation, watch_forks};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The most helper threads of a process. While the resolver does not answer, so many names wait for
/// it, and the others for them: enough that the names of a failed zone leave threads for those of
/// another, and few enough for the limits of a process.
const MAX_THREADS: usize = 64;

/// Signals of the thread that caused them. The kernel ends a process that blocks them, without the
/// handler that reports a crash.
const OWN_FAULTS: [Signal; 6] = [
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGILL,
    Signal::SIGSEGV,
    Signal::SIGSYS,
    Signal::SIGTRAP,
];

/// How long a program that starts waits for the addresses of a name: as long as the system's resolver
/// waits for its first answer. Where none of its servers answers, it takes much longer.
pub const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// What [`resolve`] knows at once.
#[derive(Debug)]
pub enum Resolution {
    /// The addresses, or why there are none.
    Ready(io::Result<Vec<SocketAddr>>),
    /// A helper thread asks the system.
    Pending(LookUp),
}

/// The look-ups of a process.
struct Resolver {
    generation: u64,
    look_up: fn(&str) -> io::Result<Vec<SocketAddr>>,
    table: Mutex<NameTable>,
    of_child: OnceLock<Box<Resolver>>,
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

impl Resolver {
    const fn new(generation: u64, look_up: fn(&str) -> io::Result<Vec<SocketAddr>>) -> Self {
        Self {
            generation,
            look_up,
            table: Mutex::new(NameTable::new()),
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
        let (resolution, is_new) = table.ask(address, Instant::now(), self.generation)?;
        if is_new && table.threads < MAX_THREADS {
            table.threads += 1;
            drop(table);
            self.start_thread();
        }
        Ok(resolution)
    }

    fn start_thread(&'static self) {
        let thread = std::thread::Builder::new().name("dsm-resolve".to_owned());
        let Err(error) = without_signals(|| thread.spawn(|| self.work())) else {
            return;
        };
        let mut table = self.table();
        table.threads -= 1;
        if table.threads > 0 {
            // Another thread takes over what waits.
            return;
        }
        let stranded = table.give_up();
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
            let Some(name) = table.take() else {
                table.threads -= 1;
                return;
            };
            drop(table);
            let answer = (self.look_up)(&name).map_err(|error| (error.kind(), error.to_string()));
            let callers = self.table().answered(&name, &answer, Instant::now());
            if let Some(callers) = callers {
                callers.finish(answer);
            }
        }
    }
}

/// Starts a thread that takes no signal of the program: a handler would run there, and the call that
/// the signal is to interrupt would continue in another thread.
fn without_signals<T>(start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut blocked = SigSet::all();
    for signal in OWN_FAULTS {
        blocked.remove(signal);
    }
    // The new thread begins with the mask of this one.
    let own = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let started = start();
    // It fails only for a mask that is none.
    let _ = own.thread_set_mask();
    started
}

#[cfg(test)]
mod tests {
    use super::super::name_table::VALIDITY;
    use super::super::shared_look_up::SharedLookUp;
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Duration;

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
        let names = 0..5 * MAX_THREADS;
        let pending: Vec<_> = names
            .map(|number| resolver.resolve(&format!("node{number}:7411")))
            .collect();
        while BEGUN.load(Ordering::Relaxed) < MAX_THREADS {
            std::thread::yield_now();
        }
        let mut table = resolver.table();
        assert_eq!(table.threads, MAX_THREADS);
        let waiting = std::iter::from_fn(|| table.take());
        assert_eq!(waiting.count(), pending.len() - MAX_THREADS);
    }

    #[test]
    fn a_helper_thread_takes_no_signal_of_the_program() {
        let resolver = resolver(|_| {
            let blocked = SigSet::thread_get_mask()?;
            let may_come = Signal::iterator().filter(|signal| !blocked.contains(*signal));
            let may_come: Vec<_> = may_come.map(Signal::as_str).collect();
            Err(io::Error::other(may_come.join(" ")))
        });
        let own = SigSet::thread_get_mask().unwrap();
        let error = resolver.resolve("node1:7411").wait(soon()).unwrap_err();
        let expected = "SIGILL SIGTRAP SIGBUS SIGFPE SIGKILL SIGSEGV SIGSTOP SIGSYS";
        assert_eq!(error.to_string(), expected);
        assert_eq!(SigSet::thread_get_mask().unwrap(), own);
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
        let of_parent = SharedLookUp::new(None, generation() + 1).unwrap();
        let of_parent = LookUp(Arc::new(of_parent));
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
