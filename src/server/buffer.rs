//! The buffers of connections, and the one budget that bounds them all.

use super::holders::{Holder, Holders};
use super::limits::LiveLimits;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Bytes that a buffer has as soon as it is used, and again when it lies idle and memory is short.
pub(super) const BASE: usize = 16 << 10;

/// Bytes that a buffer grows to so that more requests fit, though each of them would fit without.
const WIDEST: usize = 256 << 10;

/// The memory that all connections' buffers take beyond [`BASE`], at most `limits.buffer_memory`.
pub(super) struct Budget {
    used: AtomicU64,
    limits: Arc<LiveLimits>,
    holders: Mutex<Holders>,
    next_number: AtomicU64,
}

impl Budget {
    pub(super) fn new(limits: Arc<LiveLimits>) -> Self {
        Self {
            used: AtomicU64::new(0),
            limits,
            holders: Mutex::default(),
            next_number: AtomicU64::new(0),
        }
    }

    /// A number for a connection that may come to hold memory.
    pub(super) fn number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes `bytes` for a connection from `peer`, from those that are stalled if need be: from
    /// others of the same address when they hold its share.
    fn take(&self, bytes: usize, peer: IpAddr) -> bool {
        loop {
            // What its connections have that are served at this moment is not counted: one for each
            // thread at most.
            let over_share = self.holders().of_peer(peer) + bytes as u64 > self.share();
            if !over_share && self.take_free(bytes) {
                return true;
            }
            let Some(freed) = self
                .holders()
                .evict(over_share.then_some(peer), Instant::now())
            else {
                return false;
            };
            self.used.fetch_sub(freed, Ordering::Relaxed);
        }
    }

    /// Takes `bytes` if they are there.
    fn take_free(&self, bytes: usize) -> bool {
        let limit = self.limits.buffer_memory();
        let more = |used: u64| used.checked_add(bytes as u64).filter(|sum| *sum <= limit);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// The most that connections of one address may hold together: the rest is always there for
    /// others.
    fn share(&self) -> u64 {
        self.limits.buffer_memory() / 4 * 3
    }

    /// More than half is used: idle buffers should shrink.
    pub(super) fn is_short(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limits.buffer_memory() / 2
    }

    /// Notes that the connection of this number keeps memory while the server waits for its peer.
    pub(super) fn hold(&self, number: u64, holder: Holder) {
        self.holders().insert(number, holder);
    }

    /// Ends that. `false` when the memory was given to others: its buffers have lost it.
    #[must_use]
    pub(super) fn release(&self, number: u64) -> bool {
        self.holders().remove(number).is_some()
    }

    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The budget cannot give what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfMemory;

/// Bytes that come in at the end and go out at the front. Has no memory until it is used.
///
/// The memory behind it is initialised once when it grows, not with every use.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    held: Range<usize>,
    budget: Arc<Budget>,
    /// For whom it grows.
    peer: IpAddr,
}

impl Buffer {
    /// For a connection from this address.
    pub(super) fn new(budget: Arc<Budget>, peer: IpAddr) -> Self {
        Self {
            bytes: Vec::new(),
            held: 0..0,
            budget,
            peer,
        }
    }

    /// Memory of no connection: see [`Buffer::borrow`].
    pub(super) fn spare(budget: Arc<Budget>) -> Self {
        Self::new(budget, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// Gets memory, that of `spare` if it has any.
    #[inline]
    pub(super) fn borrow(&mut self, spare: &mut Self) {
        if self.bytes.is_empty() {
            std::mem::swap(&mut self.bytes, &mut spare.bytes);
            if self.bytes.is_empty() {
                self.bytes = vec![0; BASE];
            }
        }
    }

    /// Gives its memory to `spare`, unless something is held in it, or it has grown and memory is
    /// short. So each that holds something has its memory, and all others use the same, which stays
    /// in the processor's cache.
    #[inline]
    pub(super) fn give_back(&mut self, spare: &mut Self) {
        let keeps = spare.bytes.is_empty() && !(self.bytes.len() > BASE && self.budget.is_short());
        if self.held.is_empty() && keeps {
            std::mem::swap(&mut self.bytes, &mut spare.bytes);
        } else if self.held.is_empty() {
            self.release();
        }
    }

    /// Gives its memory up; nothing is held in it.
    fn release(&mut self) {
        self.budget.give_back(beyond_base(self.bytes.len()));
        self.bytes = Vec::new();
    }

    /// Gives its memory up, which the budget has given to others already.
    pub(super) fn forfeit(&mut self) {
        self.bytes = Vec::new();
        self.held = 0..0;
    }

    /// Lets go of all that is held.
    pub(super) fn clear(&mut self) {
        self.held = 0..0;
    }

    /// Bytes of the budget that it has.
    #[inline]
    pub(super) fn budgeted(&self) -> usize {
        beyond_base(self.bytes.len())
    }

    /// What is held.
    #[inline]
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.held.clone()]
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Lets the first `count` bytes go.
    #[inline]
    pub(super) fn consume(&mut self, count: usize) {
        assert!(count <= self.held.len(), "more than is held");
        self.held.start += count;
        if self.held.is_empty() {
            self.held = 0..0;
        }
    }

    /// Makes room for `count` bytes after what is held, moving or growing as needed.
    #[inline]
    pub(super) fn reserve(&mut self, count: usize) -> Result<(), OutOfMemory> {
        if self.bytes.len() - self.held.end >= count {
            Ok(())
        } else {
            self.make_room(count)
        }
    }

    #[cold]
    fn make_room(&mut self, count: usize) -> Result<(), OutOfMemory> {
        self.grow((self.held.len() + count).next_multiple_of(BASE))?;
        self.compact();
        Ok(())
    }

    /// Makes room for more of a frame of `total` bytes of which some are held: for all of it where
    /// there is memory already, else for as much as has come, so that it takes bytes to take
    /// memory, and no frame is copied more than twice.
    #[inline]
    pub(super) fn expect(&mut self, total: usize) -> Result<(), OutOfMemory> {
        let missing = total.saturating_sub(self.held.len());
        if self.bytes.len() - self.held.end >= missing {
            Ok(())
        } else {
            self.expect_more(total)
        }
    }

    #[cold]
    fn expect_more(&mut self, total: usize) -> Result<(), OutOfMemory> {
        if self.bytes.len() < total && self.held.len() > self.bytes.len() / 2 {
            self.grow(
                total
                    .next_multiple_of(BASE)
                    .min(2 * self.bytes.len().max(BASE)),
            )?;
        }
        self.compact();
        Ok(())
    }

    /// Has at least `size` bytes, for what is held and what may come.
    fn grow(&mut self, size: usize) -> Result<(), OutOfMemory> {
        if size > self.bytes.len() {
            if !self
                .budget
                .take(beyond_base(size) - beyond_base(self.bytes.len()), self.peer)
            {
                return Err(OutOfMemory);
            }
            self.bytes.resize(size, 0);
        }
        Ok(())
    }

    /// Has all its room behind what is held.
    fn compact(&mut self) {
        self.bytes.copy_within(self.held.clone(), 0);
        self.held = 0..self.held.len();
    }

    /// The room after what is held, to be filled; [`Buffer::commit`] then says how much was.
    #[inline]
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.held.end..]
    }

    /// The first `count` bytes of the room were filled.
    #[inline]
    pub(super) fn commit(&mut self, count: usize) {
        assert!(
            count <= self.bytes.len() - self.held.end,
            "more than there is room for"
        );
        self.held.end += count;
    }

    /// Appends `data`.
    #[inline]
    pub(super) fn append(&mut self, data: &[u8]) -> Result<(), OutOfMemory> {
        self.reserve(data.len())?;
        self.room()[..data.len()].copy_from_slice(data);
        self.commit(data.len());
        Ok(())
    }

    /// Makes room for `count` bytes after the first `at` that are held, to be filled: it counts as
    /// held.
    pub(super) fn insert(&mut self, at: usize, count: usize) -> Result<&mut [u8], OutOfMemory> {
        assert!(at <= self.held.len(), "more than is held");
        self.reserve(count)?;
        let at = self.held.start + at;
        self.bytes.copy_within(at..self.held.end, at + count);
        self.held.end += count;
        Ok(&mut self.bytes[at..at + count])
    }

    /// Doubles the buffer, up to [`WIDEST`]: to be called when what has come filled it, so that a
    /// client with many requests under way has them executed together. Does nothing while memory is
    /// short.
    pub(super) fn widen(&mut self) {
        let more = self
            .bytes
            .len()
            .min(WIDEST.saturating_sub(self.bytes.len()));
        if more > 0 && !self.budget.is_short() && self.budget.take_free(more) {
            self.bytes.resize(self.bytes.len() + more, 0);
        }
    }

    /// Gives back what is more than twice what is held, if memory is short.
    pub(super) fn fit(&mut self) {
        let size = (2 * self.held.len()).next_multiple_of(BASE);
        if size < self.bytes.len() && self.bytes.len() > BASE && self.budget.is_short() {
            let mut bytes = vec![0; size];
            bytes[..self.held.len()].copy_from_slice(self.as_slice());
            self.budget
                .give_back(beyond_base(self.bytes.len()) - beyond_base(size));
            self.held = 0..self.held.len();
            self.bytes = bytes;
        }
    }

    /// Gives grown memory back if nothing is held and memory is short.
    pub(super) fn shrink_if_idle(&mut self) {
        if self.held.is_empty() && self.bytes.len() > BASE && self.budget.is_short() {
            self.release();
            self.bytes = vec![0; BASE];
        }
    }
}

/// Bytes of a buffer of this size that count.
fn beyond_base(size: usize) -> usize {
    size.saturating_sub(BASE)
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dsm_config::Config;
    use nix::poll::PollFlags;
    use std::net::{TcpListener, TcpStream};
    use std::path::Path;
    use std::time::Duration;

    const MEMORY: u64 = 8 << 20;
    const MIB: usize = 1 << 20;

    fn budget() -> Arc<Budget> {
        let second = Duration::from_secs(1);
        let text = "k = \"4KiB\"\nn = 1\n[[server]]\naddress = \"127.0.0.1:7411\"\n";
        let mut limits = Config::parse(text, Path::new("mcomp.cfg")).unwrap().limits;
        (limits.connections, limits.threads) = (1, 1);
        (limits.hello_timeout, limits.request_timeout) = (second, second);
        limits.shutdown_timeout = second;
        limits.buffer_memory = MEMORY;
        Arc::new(Budget::new(Arc::new(LiveLimits::new(&limits, 1))))
    }

    #[test]
    fn one_address_leaves_a_quarter_of_the_memory_to_others_and_alone_it_has_the_rest() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let socket = Arc::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let budget = budget();
        let (one, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        // None of them is stalled, however slow this machine is.
        let since = Instant::now() + Duration::from_secs(3600);
        let fill = |peer| {
            let hold = |_: &usize| {
                let taken = budget.take(MIB, peer);
                let (awaits, socket) = (PollFlags::POLLIN, Arc::clone(&socket));
                let holder = Holder {
                    bytes: MIB as u64,
                    peer,
                    since,
                    awaits,
                    socket,
                };
                taken
                    .then(|| budget.hold(budget.number(), holder))
                    .is_some()
            };
            (0..100).take_while(hold).count()
        };
        assert_eq!(fill(one), 6);
        assert_eq!(fill(other), 2, "what is left to others");
        assert!(!budget.take(1, other) && !budget.take(1, one));
    }

    #[test]
    fn a_frame_gets_room_by_what_has_come_of_it_and_not_by_what_it_claims() {
        let budget = budget();
        let mut buffer = Buffer::spare(Arc::clone(&budget));
        buffer.borrow(&mut Buffer::spare(Arc::clone(&budget)));
        let mut receives = 0;
        while buffer.len() < MIB {
            buffer.expect(MIB).unwrap();
            assert!(
                buffer.budgeted() <= 2 * buffer.len(),
                "{} for {}",
                buffer.budgeted(),
                buffer.len()
            );
            let room = buffer.room().len().min(MIB - buffer.len());
            assert!(room > 0);
            buffer.commit(room);
            receives += 1;
        }
        assert_eq!(buffer.budgeted(), MIB - BASE);
        assert!(receives < 10, "{receives} receives");
        // While memory is short, a buffer that has grown for others holds no more either.
        buffer.consume(MIB - 100);
        buffer.fit();
        assert_eq!(buffer.budgeted(), MIB - BASE, "memory is not short");
        assert!(budget.take_free(5 * MIB));
        buffer.fit();
        assert_eq!((buffer.budgeted(), buffer.len()), (0, 100));
    }
}
