//! One call's work at one server: its jobs, and the link that carries them. Never blocks, but for a
//! name look-up.

use super::Error;
use super::job::{Job, Value};
use super::link::{Link, Phase};
use super::pool::Checked;
use super::trouble::{NO_ANSWER, Trouble};
use dsm_core::protocol::{HelloRequest, Operation, WINDOW};
use nix::poll::PollFlags;
use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::time::Instant;
use zerocopy::IntoBytes;

/// Jobs that may wait for replies or for their turn before a submission has to wait.
const QUEUE: u64 = 2 * WINDOW;

/// Waiting jobs that are worth a send while replies are awaited.
const WORTH_SENDING: u64 = 16;

/// How much of the payload of the reply to the oldest request is there.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) received: usize,
    pub(super) total: usize,
    pub(super) value: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lane<'a> {
    pub(super) link: Checked,
    pub(super) jobs: VecDeque<Job<'a>>,
    /// Number of the first job in `jobs`, and of the first that is not wholly cut. Jobs are
    /// numbered as they come.
    first: u64,
    cutting: u64,
    pub(super) unfinished: u64,
    /// What is left of a long payload that is being sent.
    pub(super) tail: &'a [u8],
    pub(super) body: Option<Body>,
    /// Fail with the first attempt that is answered and fails: after a refusal, or the word of a
    /// machine that there is no server, another attempt would say the same. Silence says nothing: a
    /// packet may be lost.
    pub(super) until_answered: bool,
    /// What the last poll said of the socket.
    pub(super) ready: Cell<PollFlags>,
}

impl<'a> Lane<'a> {
    pub(super) fn new(link: Checked) -> Self {
        Self {
            link,
            jobs: VecDeque::new(),
            first: 0,
            cutting: 0,
            unfinished: 0,
            tail: &[],
            body: None,
            until_answered: false,
            ready: Cell::new(PollFlags::empty()),
        }
    }

    pub(super) fn server(&self) -> usize {
        self.link.server
    }

    pub(super) fn is_full(&self) -> bool {
        self.unfinished >= QUEUE
    }

    /// Whether enough jobs are finished after it was full, to go on in batches.
    pub(super) fn is_relieved(&self) -> bool {
        self.unfinished <= QUEUE / 2
    }

    /// Whether there is anything to wait for.
    pub(super) fn is_busy(&self) -> bool {
        self.unfinished > 0
    }

    pub(super) fn push(&mut self, job: Job<'a>) {
        self.jobs.push_back(job);
        self.unfinished += 1;
    }

    /// Sends when that gains anything: at once when nothing is under way, in batches while replies
    /// are awaited.
    pub(super) fn nudge(&mut self, now: Instant) {
        let waiting = self.first + self.jobs.len() as u64 - self.cutting;
        if self.link.session.is_idle() || waiting >= WORTH_SENDING {
            self.drive(now);
        }
    }

    pub(super) fn front_is_finished(&self) -> bool {
        self.jobs.front().is_some_and(Job::is_finished)
    }

    /// Takes the oldest job, if it is finished.
    pub(super) fn take(&mut self) -> Option<Result<Value, Error>> {
        if !self.front_is_finished() {
            return None;
        }
        let job = self.jobs.pop_front()?;
        self.first += 1;
        self.cutting = self.cutting.max(self.first);
        Some(job.outcome())
    }

    /// Does whatever the socket allows, and opens it when there is none and its time has come.
    pub(super) fn drive(&mut self, now: Instant) {
        let ready = self.ready.replace(PollFlags::empty());
        if let Err(trouble) = self.step(now, ready) {
            self.recover(trouble, now);
        }
    }

    fn step(&mut self, now: Instant, ready: PollFlags) -> Result<(), Trouble> {
        let ended = PollFlags::POLLERR | PollFlags::POLLHUP;
        match self.link.phase {
            Phase::Down(until) if now < until => {}
            Phase::Down(_) => {
                let address = self.link.shared.layout.addresses()[self.server()].clone();
                self.link.connect(&address, now).map_err(Trouble::Broken)?;
            }
            Phase::Connecting(_) if ready.intersects(PollFlags::POLLOUT | ended) => {
                self.link.finish_connecting(now).map_err(Trouble::Broken)?;
                if self.link.phase == Phase::Greeting {
                    self.say_hello()?;
                    self.send()?;
                }
            }
            Phase::Connecting(until) if now < until => {}
            Phase::Connecting(_) => {
                self.link.unanswered(NO_ANSWER);
                self.link.try_next(now).map_err(Trouble::Broken)?;
            }
            Phase::Greeting | Phase::Ready => {
                if ready.intersects(PollFlags::POLLIN | ended) {
                    self.receive()?;
                }
                if !self.link.blocked || ready.contains(PollFlags::POLLOUT) {
                    self.send()?;
                }
            }
        }
        Ok(())
    }

    fn say_hello(&mut self) -> Result<(), Trouble> {
        let known = self.link.shared.known_incarnation(self.server());
        if let Some(id) = self.link.to_supersede.last().copied() {
            self.encode_hello(id, known, true);
            return Ok(());
        }
        if self.link.session.incarnation != 0 && self.link.session.incarnation != known {
            let doubtful = self.link.session.renew();
            self.doubt(
                &doubtful,
                "the server lost its memory, and the loss was accepted before the reply came",
            );
        }
        let session = &mut self.link.session;
        if session.id == [0; 16] {
            getrandom::fill(&mut session.id).map_err(|error| {
                Trouble::Broken(format!("the system has no random numbers: {error}"))
            })?;
        }
        let (id, greeted) = (session.id, session.greeted);
        self.encode_hello(id, known, greeted);
        Ok(())
    }

    fn encode_hello(&mut self, session: [u8; 16], known: u64, resume: bool) {
        #[allow(clippy::cast_possible_truncation)] // at most MAX_SERVERS
        let index = self.link.server as u32;
        let hello = HelloRequest::new(index, session, known, resume);
        let payload = [hello.as_bytes(), self.link.shared.canonical.as_bytes()].concat();
        self.link.encode(0, Operation::Hello(&payload));
    }

    /// Sends until all is sent, the window is full, or the kernel takes no more.
    fn send(&mut self) -> Result<(), Trouble> {
        loop {
            if self.link.is_flushed() && self.tail.is_empty() {
                if self.link.phase == Phase::Ready {
                    while self.tail.is_empty()
                        && !self.link.batch_is_full()
                        && self.encode_next()?
                    {}
                }
                if self.link.is_flushed() && self.tail.is_empty() {
                    return Ok(());
                }
            }
            match self.link.write(self.tail) {
                Ok(taken) => {
                    self.tail = &self.tail[taken..];
                    self.link.blocked = false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.link.blocked = true;
                    return Ok(());
                }
                Err(error) => return Err(self.send_failed(&error)),
            }
        }
    }

    /// A server that refuses and closes does so while requests are still being sent: its last words
    /// may be there to read, and say more than the broken pipe.
    fn send_failed(&mut self, error: &io::Error) -> Trouble {
        self.receive()
            .err()
            .unwrap_or_else(|| Trouble::Broken(error.to_string()))
    }

    /// Encodes the oldest request that is not, after cutting one if there is none; false when there
    /// is nothing to send or no room in the window.
    fn encode_next(&mut self) -> Result<bool, Trouble> {
        if self.link.session.to_encode().is_none() && !self.cut_next() {
            return Ok(false);
        }
        let Some(sent) = self.link.session.to_encode() else {
            return Ok(false);
        };
        let id = sent.id;
        let job = &mut self.jobs[place(sent.job, self.first)];
        job.going_out();
        let operation = job.operation(sent.position, sent.length, self.link.shared.layout.k());
        let operation = operation.map_err(|refusal| Trouble::Fatal(self.refused(refusal)))?;
        self.tail = self.link.encode(id, operation);
        Ok(true)
    }

    fn cut_next(&mut self) -> bool {
        while let Some(job) = self.jobs.get_mut(place(self.cutting, self.first)) {
            let Some(length) = job.next_length() else {
                self.cutting += 1;
                continue;
            };
            if !self.link.session.has_room(length) {
                return false;
            }
            let Some((position, length)) = job.cut() else {
                return false;
            };
            self.link
                .session
                .add(job.opcode(), self.cutting, position, length);
            return true;
        }
        false
    }

    /// The job with this number, as long as it has parts without a reply.
    pub(super) fn job(&mut self, number: u64) -> &mut Job<'a> {
        &mut self.jobs[place(number, self.first)]
    }

    /// The link, and the job with this number.
    pub(super) fn link_and_job(&mut self, number: u64) -> (&mut Link, &mut Job<'a>) {
        (&mut self.link, &mut self.jobs[place(number, self.first)])
    }

    /// Counts the job as finished, if it is; to be called after each of its parts.
    pub(super) fn settle(&mut self, number: u64) {
        if self.job(number).is_finished() {
            self.unfinished -= 1;
        }
    }

    /// The instant at which something is to be done even if nothing comes.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        match self.link.phase {
            Phase::Down(until) | Phase::Connecting(until) => Some(until),
            Phase::Greeting | Phase::Ready => None,
        }
    }
}

/// Where a job is in a queue whose first has the number `first`.
#[allow(clippy::cast_possible_truncation)] // The queue is in memory.
fn place(number: u64, first: u64) -> usize {
    (number - first) as usize
}
