//! One connection of the load. It keeps as many requests in flight as the depth says: a new one
//! starts when one ends.

use super::plan::{LoadPlan, RequestKind};
use super::random::SplitMix64;
use super::requests::{LoadRequest, RequestSequence};
use super::tally::Tally;
use dsm_client::{Client, Error};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The number of completed requests of a connection, which the progress display reads. Aligned to
/// two cache lines, since processors fetch them in pairs: otherwise each increment would slow down
/// the other connections (false sharing).
#[repr(align(128))]
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    /// Completed requests, including those of the warm-up.
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds one. Only the connection itself may call this: the addition is not atomic.
    #[inline]
    fn add_one(&self) {
        self.0.store(self.count() + 1, Ordering::Relaxed);
    }
}

/// Ends all connections early.
#[derive(Debug, Default)]
pub(super) struct Stop {
    /// A request failed.
    pub(super) failed: AtomicBool,
    /// SIGINT or SIGTERM arrived.
    pub(super) interrupted: std::sync::Arc<AtomicBool>,
}

impl Stop {
    #[inline]
    pub(super) fn is_set(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.interrupted.load(Ordering::Relaxed)
    }
}

/// The limit after which a connection makes no further request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub(super) until: Option<Instant>,
    /// The number of requests that it may still make.
    pub(super) left: u64,
}

/// One connection of the load, used by one thread.
pub(super) struct LoadConnection<'p> {
    client: Client,
    requests: RequestSequence<'p>,
    depth: usize,
    /// The bytes that writes write.
    data: Vec<u8>,
    counter: &'p Counter,
    stop: &'p Stop,
}

impl<'p> LoadConnection<'p> {
    pub(super) fn new(
        client: Client,
        plan: &'p LoadPlan,
        number: u64,
        counter: &'p Counter,
        stop: &'p Stop,
    ) -> Self {
        // The plan limits both to less than a gigabyte.
        #[allow(clippy::cast_possible_truncation)]
        let (size, depth) = (plan.size as usize, plan.depth as usize);
        let mut data = vec![0; size];
        SplitMix64::new(plan.seed.wrapping_sub(number)).fill(&mut data);
        Self {
            client,
            requests: RequestSequence::new(plan, number),
            depth,
            data,
            counter,
            stop,
        }
    }

    /// Connects to the servers, so that no request includes the time of connecting.
    pub(super) fn connect(&self, servers: &[usize]) -> Result<(), Error> {
        let mut servers = servers.iter().take_while(|_| !self.stop.is_set());
        servers.try_for_each(|server| self.client.ping(*server).map(drop))
    }

    /// Makes requests up to the limit, and waits for all their replies.
    pub(super) fn run(&mut self, limit: Limit) -> Tally {
        let mut tally = Tally::new();
        let begin = Instant::now();
        if self.depth == 1 {
            self.run_sequential(limit, &mut tally);
        } else {
            self.run_pipelined(limit, &mut tally);
        }
        tally.took(begin, Instant::now());
        tally
    }

    fn run_sequential(&mut self, mut limit: Limit, tally: &mut Tally) {
        let mut buffer = self.data.clone();
        let mut now = Instant::now();
        while self.take_one(&mut limit, now) {
            let LoadRequest { kind, address } = self.requests.next();
            let outcome = match kind {
                RequestKind::Read => self.client.read_into(address, &mut buffer),
                RequestKind::Write => self.client.write(address, &self.data),
                RequestKind::Add => self.client.fetch_add(address, 1).map(drop),
            };
            let sent = std::mem::replace(&mut now, Instant::now());
            self.count(kind, now - sent, outcome, tally);
        }
    }

    fn run_pipelined(&mut self, mut limit: Limit, tally: &mut Tally) {
        let data = std::mem::take(&mut self.data);
        let mut pipeline = self.client.pipeline();
        let mut in_flight = VecDeque::with_capacity(self.depth);
        let mut now = Instant::now();
        loop {
            while in_flight.len() < self.depth && self.take_one(&mut limit, now) {
                let LoadRequest { kind, address } = self.requests.next();
                let submitted = match kind {
                    RequestKind::Read => pipeline.read(address, data.len() as u64),
                    RequestKind::Write => pipeline.write(address, &data),
                    RequestKind::Add => pipeline.fetch_add(address, 1),
                };
                match submitted {
                    Ok(()) => in_flight.push_back((kind, now)),
                    Err(error) => self.count(kind, Duration::ZERO, Err(error), tally),
                }
            }
            // Collects all replies that have arrived, with one timestamp. The loop then submits as
            // many requests at once, so that they share packets.
            let mut waited = false;
            while !waited || pipeline.is_next_ready() {
                let (Some(outcome), Some((kind, sent))) = (pipeline.next(), in_flight.pop_front())
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

    /// Whether the limit allows another request; counts it if so.
    #[inline]
    fn take_one(&self, limit: &mut Limit, now: Instant) -> bool {
        if limit.left == 0 || limit.until.is_some_and(|until| now >= until) || self.stop.is_set() {
            return false;
        }
        limit.left -= 1;
        true
    }

    #[inline]
    fn count(
        &self,
        kind: RequestKind,
        time: Duration,
        outcome: Result<(), Error>,
        tally: &mut Tally,
    ) {
        self.counter.add_one();
        match outcome {
            Ok(()) => tally.succeeded(kind, time),
            Err(error) => {
                // The library has retried until the deadline, so more requests would fail as
                // slowly.
                self.stop.failed.store(true, Ordering::Relaxed);
                tally.failed(1, error);
            }
        }
    }
}
