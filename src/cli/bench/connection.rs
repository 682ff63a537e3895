//! One connection and its requests: the next begins when one has ended, so that as many as the
//! depth says are under way.

use super::plan::{Kind, Plan};
use super::random::Random;
use super::tally::Tally;
use super::tasks::{Task, Tasks};
use dsm_client::{Client, Error};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a connection and whoever watches it share. On cache lines of its own, two since processors
/// fetch them in pairs: otherwise each count would cost the other connections time.
#[repr(align(128))]
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Requests that have ended, those of the warm-up too.
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Only the connection itself adds.
    #[inline]
    fn add_one(&self) {
        self.0.store(self.count() + 1, Ordering::Relaxed);
    }
}

/// Why all connections are to end before their time.
#[derive(Debug, Default)]
pub(super) struct Stop {
    /// A request failed.
    pub(super) failed: AtomicBool,
    /// A signal came.
    pub(super) interrupted: std::sync::Arc<AtomicBool>,
}

impl Stop {
    #[inline]
    pub(super) fn is_set(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.interrupted.load(Ordering::Relaxed)
    }
}

/// When a connection makes no further request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub(super) until: Option<Instant>,
    /// Requests that are left.
    pub(super) left: u64,
}

/// See the module.
pub(super) struct Connection<'p> {
    client: Client,
    tasks: Tasks<'p>,
    depth: usize,
    /// What writes write.
    data: Vec<u8>,
    counter: &'p Counter,
    stop: &'p Stop,
}

impl<'p> Connection<'p> {
    pub(super) fn new(
        client: Client,
        plan: &'p Plan,
        number: u64,
        counter: &'p Counter,
        stop: &'p Stop,
    ) -> Self {
        // Neither is over a gigabyte: the plan was checked.
        #[allow(clippy::cast_possible_truncation)]
        let (size, depth) = (plan.size as usize, plan.depth as usize);
        let mut data = vec![0; size];
        Random::new(plan.seed.wrapping_sub(number)).fill(&mut data);
        Self {
            client,
            tasks: Tasks::new(plan, number),
            depth,
            data,
            counter,
            stop,
        }
    }

    /// Connects to the servers, so that no request takes the time that this takes.
    pub(super) fn connect(&self, servers: &[usize]) -> Result<(), Error> {
        let mut servers = servers.iter().take_while(|_| !self.stop.is_set());
        servers.try_for_each(|server| self.client.ping(*server).map(drop))
    }

    /// Makes requests up to the limit, and waits for all their replies.
    pub(super) fn run(&mut self, limit: Limit) -> Tally {
        let mut tally = Tally::new();
        let begin = Instant::now();
        if self.depth == 1 {
            self.one_by_one(limit, &mut tally);
        } else {
            self.pipelined(limit, &mut tally);
        }
        tally.took(begin, Instant::now());
        tally
    }

    fn one_by_one(&mut self, mut limit: Limit, tally: &mut Tally) {
        let mut buffer = self.data.clone();
        let mut now = Instant::now();
        while self.may_go_on(&mut limit, now) {
            let Task { kind, address } = self.tasks.next();
            let outcome = match kind {
                Kind::Read => self.client.read_into(address, &mut buffer),
                Kind::Write => self.client.write(address, &self.data),
                Kind::Add => self.client.fetch_add(address, 1).map(drop),
            };
            let sent = std::mem::replace(&mut now, Instant::now());
            self.count(kind, now - sent, outcome, tally);
        }
    }

    fn pipelined(&mut self, mut limit: Limit, tally: &mut Tally) {
        let data = std::mem::take(&mut self.data);
        let mut pipeline = self.client.pipeline();
        let mut under_way = VecDeque::with_capacity(self.depth);
        let mut now = Instant::now();
        loop {
            while under_way.len() < self.depth && self.may_go_on(&mut limit, now) {
                let Task { kind, address } = self.tasks.next();
                let submitted = match kind {
                    Kind::Read => pipeline.read(address, data.len() as u64),
                    Kind::Write => pipeline.write(address, &data),
                    Kind::Add => pipeline.fetch_add(address, 1),
                };
                match submitted {
                    Ok(()) => under_way.push_back((kind, now)),
                    Err(error) => self.count(kind, Duration::ZERO, Err(error), tally),
                }
            }
            // What has come together is collected together, at one instant, and as much again is
            // submitted together.
            let mut waited = false;
            while !waited || pipeline.is_next_ready() {
                let (Some(outcome), Some((kind, sent))) = (pipeline.next(), under_way.pop_front())
                else {
                    break;
                };
                if !std::mem::replace(&mut waited, true) {
                    now = Instant::now();
                }
                self.count(kind, now - sent, outcome.map(drop), tally);
            }
            if !waited {
                break;
            }
        }
        drop(pipeline);
        self.data = data;
    }

    /// Whether there is to be another request; counts it.
    #[inline]
    fn may_go_on(&self, limit: &mut Limit, now: Instant) -> bool {
        if limit.left == 0 || limit.until.is_some_and(|until| now >= until) || self.stop.is_set() {
            return false;
        }
        limit.left -= 1;
        true
    }

    #[inline]
    fn count(&self, kind: Kind, time: Duration, outcome: Result<(), Error>, tally: &mut Tally) {
        self.counter.add_one();
        match outcome {
            Ok(()) => tally.succeeded(kind, time),
            Err(error) => {
                // The library has tried until the deadline: more of the same would only take
                // longer.
                self.stop.failed.store(true, Ordering::Relaxed);
                tally.failed(1, error);
            }
        }
    }
}
