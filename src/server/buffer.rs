//! The buffers of connections, and the budget that bounds their memory.

use super::holders::{Holder, Holders};
use super::limits::LiveLimits;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The size of a buffer in use, and of an idle one when memory is short. It does not count against
/// the budget.
pub(super) const BASE: usize = 16 << 10;

/// The largest size, in bytes, that a buffer grows to only so that more requests fit.
const MAX_WIDENED: usize = 256 << 10;

/// The largest buffer of a short request: for 64 KiB of data and its header.
const SHORT: usize = (64 << 10) + BASE;

/// The memory of all buffers beyond [`BASE`], at most `limits.buffer_memory`. No address can use
/// more than three quarters of it. Buffers larger than [`SHORT`] leave an eighth of it unused, so
/// that short requests are served although many peers ask for long replies and do not take them.
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

    /// A number that identifies a connection that may hold memory.
    pub(super) fn number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes `bytes` for a buffer of a connection from `peer`, which will have `size` bytes when the
    /// whole request or reply is in it. If there are not enough, evicts stalled
    /// connections; when the address of `peer` has used up its share, only its own.
    fn take(&self, bytes: usize, peer: IpAddr, size: usize) -> bool {
        let reserve = if size > SHORT { self.reserve() } else { 0 };
        loop {
            // Memory of connections that are being served at this moment is not counted: at most
            // one connection per thread.
            let over_share = self.holders().of_peer(peer) + bytes as u64 + reserve > self.share();
            if !over_share && self.take_unused(bytes, reserve) {
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

    /// Takes `bytes` if they are unused and `reserve` bytes remain.
    fn take_unused(&self, bytes: usize, reserve: u64) -> bool {
        let limit = self.limits.buffer_memory() - reserve;
        let more = |used: u64| used.checked_add(bytes as u64).filter(|sum| *sum <= limit);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    /// The most that connections of one address may hold together, so that the rest is available to
    /// others.
    fn share(&self) -> u64 {
        self.limits.buffer_memory() / 4 * 3
    }

    /// What long requests leave to short ones.
    fn reserve(&self) -> u64 {
        self.limits.buffer_memory() / 8
    }

    /// Whether more than half is used: idle buffers should shrink.
    pub(super) fn is_short(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limits.buffer_memory() / 2
    }

    /// Registers that the connection of this number holds memory while the server waits for its
    /// peer.
    pub(super) fn hold(&self, number: u64, holder: Holder) {
        self.holders().insert(number, holder);
    }

    /// Ends the registration. `false` when the memory was given to others: the connection's buffers
    /// have lost it.
    #[must_use]
    pub(super) fn release(&self, number: u64) -> bool {
        self.holders().remove(number).is_some()
    }

    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The budget cannot provide the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfMemory;

/// A queue of bytes: appended at the end, consumed at the front. It has no memory until it is used.
///
/// The memory is initialised once when it grows, not with every use.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    queued: Range<usize>,
    budget: Arc<Budget>,
    /// The peer that its memory is charged to.
    peer: IpAddr,
}

impl Buffer {
    /// A buffer of a connection from this address.
    pub(super) fn new(budget: Arc<Budget>, peer: IpAddr) -> Self {
        Self {
            bytes: Vec::new(),
            queued: 0..0,
            budget,
            peer,
        }
    }

    /// A buffer of a thread, not of a connection: see [`Buffer::borrow`].
    pub(super) fn spare(budget: Arc<Budget>) -> Self {
        Self::new(budget, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// Allocates memory, or takes that of `spare` if it has any.
    #[inline]
    pub(super) fn borrow(&mut self, spare: &mut Self) {
        if self.bytes.is_empty() {
            std::mem::swap(&mut self.bytes, &mut spare.bytes);
            if self.bytes.is_empty() {
                self.bytes = vec![0; BASE];
            }
        }
    }

    /// Returns the memory to `spare`, unless bytes are queued in it, or it has grown and memory is
    /// short. So only buffers with queued bytes have memory, and all others share one block that
    /// stays in the processor's cache.
    #[inline]
    pub(super) fn give_back(&mut self, spare: &mut Self) {
        if self.queued.is_empty() {
            let keeps = self.bytes.len() > spare.bytes.len()
                && !(self.bytes.len() > BASE && self.budget.is_short());
            if keeps {
                std::mem::swap(&mut self.bytes, &mut spare.bytes);
            }
            if !self.bytes.is_empty() {
                self.release();
            }
        }
    }

    /// Frees the memory; nothing is queued in it.
    fn release(&mut self) {
        self.budget.give_back(beyond_base(self.bytes.len()));
        self.bytes = Vec::new();
    }

    /// Frees the memory, which the budget has given to others already.
    pub(super) fn forfeit(&mut self) {
        self.bytes = Vec::new();
        self.queued = 0..0;
    }

    /// Drops all queued bytes.
    pub(super) fn clear(&mut self) {
        self.queued = 0..0;
    }

    /// The bytes that count against the budget.
    #[inline]
    pub(super) fn budgeted(&self) -> usize {
        beyond_base(self.bytes.len())
    }

    /// The queued bytes.
    #[inline]
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.queued.clone()]
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.queued.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    /// Drops the first `count` bytes.
    #[inline]
    pub(super) fn consume(&mut self, count: usize) {
        assert!(count <= self.queued.len(), "more than is queued");
        self.queued.start += count;
        if self.queued.is_empty() {
            self.queued = 0..0;
        }
    }

    /// Makes room for `count` more bytes, by moving or growing as needed.
    #[inline]
    pub(super) fn reserve(&mut self, count: usize) -> Result<(), OutOfMemory> {
        if self.bytes.len() - self.queued.end >= count {
            Ok(())
        } else {
            self.make_room(count)
        }
    }

    #[cold]
    fn make_room(&mut self, count: usize) -> Result<(), OutOfMemory> {
        let size = (self.queued.len() + count).next_multiple_of(BASE);
        self.grow(size, size)?;
        self.compact();
        Ok(())
    }

    /// Makes room for the rest of a frame of `total` bytes: for all of it if the memory is there,
    /// else for as much again as has arrived. A peer must send bytes to make the server allocate
    /// memory, and no frame is copied more than twice.
    #[inline]
    pub(super) fn expect(&mut self, total: usize) -> Result<(), OutOfMemory> {
        let missing = total.saturating_sub(self.queued.len());
        if self.bytes.len() - self.queued.end >= missing {
            Ok(())
        } else {
            self.expect_more(total)
        }
    }

    #[cold]
    fn expect_more(&mut self, total: usize) -> Result<(), OutOfMemory> {
        if self.bytes.len() < total && self.queued.len() > self.bytes.len() / 2 {
            let size = total.next_multiple_of(BASE);
            self.grow(size.min(2 * self.bytes.len().max(BASE)), size)?;
        }
        self.compact();
        Ok(())
    }

    /// Grows to at least `size` bytes, of `total` that it will have.
    fn grow(&mut self, size: usize, total: usize) -> Result<(), OutOfMemory> {
        if size > self.bytes.len() {
            let more = beyond_base(size) - beyond_base(self.bytes.len());
            if !self.budget.take(more, self.peer, total) {
                return Err(OutOfMemory);
            }
            self.bytes.resize(size, 0);
        }
        Ok(())
    }

    /// Moves the queued bytes to the front.
    fn compact(&mut self) {
        self.bytes.copy_within(self.queued.clone(), 0);
        self.queued = 0..self.queued.len();
    }

    /// The free room after the queued bytes; [`Buffer::commit`] says how much of it was filled.
    #[inline]
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.queued.end..]
    }

    /// Appends the first `count` bytes of the room to the queue.
    #[inline]
    pub(super) fn commit(&mut self, count: usize) {
        assert!(
            count <= self.bytes.len() - self.queued.end,
            "more than there is room for"
        );
        self.queued.end += count;
    }

    /// Appends `data`.
    #[inline]
    pub(super) fn append(&mut self, data: &[u8]) -> Result<(), OutOfMemory> {
        self.reserve(data.len())?;
        self.room()[..data.len()].copy_from_slice(data);
        self.commit(data.len());
        Ok(())
    }

    /// Inserts `count` bytes after the first `at` queued ones, for the caller to fill.
    pub(super) fn insert(&mut self, at: usize, count: usize) -> Result<&mut [u8], OutOfMemory> {
        assert!(at <= self.queued.len(), "more than is queued");
        self.reserve(count)?;
        let at = self.queued.start + at;
        self.bytes.copy_within(at..self.queued.end, at + count);
        self.queued.end += count;
        Ok(&mut self.bytes[at..at + count])
    }

    /// Doubles the buffer, up to [`MAX_WIDENED`]. To be called when a receive filled it, so that a
    /// client with many requests in flight has them executed together. Does nothing while memory is
    /// short.
    pub(super) fn widen(&mut self) {
        let more = self
            .bytes
            .len()
            .min(MAX_WIDENED.saturating_sub(self.bytes.len()));
        if more > 0 && !self.budget.is_short() && self.budget.take_unused(more, 0) {
            self.bytes.resize(self.bytes.len() + more, 0);
        }
    }

    /// If memory is short, frees what exceeds twice the queued bytes.
    pub(super) fn fit(&mut self) {
        let size = (2 * self.queued.len()).next_multiple_of(BASE);
        if size < self.bytes.len() && self.bytes.len() > BASE && self.budget.is_short() {
            let mut bytes = vec![0; size];
            bytes[..self.queued.len()].copy_from_slice(self.as_slice());
            self.budget
                .give_back(beyond_base(self.bytes.len()) - beyond_base(size));
            self.queued = 0..self.queued.len();
            self.bytes = bytes;
        }
    }

    /// If memory is short and nothing is queued, shrinks to [`BASE`].
    pub(super) fn shrink_if_idle(&mut self) {
        if self.queued.is_empty() && self.bytes.len() > BASE && self.budget.is_short() {
            self.release();
            self.bytes = vec![0; BASE];
        }
    }
}

/// The bytes of a buffer of this size that count against the budget.
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
    use dsm_core::net::Stream;
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
    fn one_address_leaves_a_quarter_of_the_memory_to_others_and_long_requests_an_eighth_to_short_ones()
     {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = Arc::new(Stream::from(socket));
        let budget = budget();
        let (one, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        // No connection is stalled, however slow this machine is.
        let since = Instant::now() + Duration::from_secs(3600);
        let fill = |peer, size: usize| {
            let hold = |_: &usize| {
                let taken = budget.take(size, peer, size);
                let (awaits, socket) = (PollFlags::POLLIN, Arc::clone(&socket));
                let holder = Holder {
                    bytes: size as u64,
                    peer,
                    since: Some(since),
                    awaits,
                    socket,
                };
                taken
                    .then(|| budget.hold(budget.number(), holder))
                    .is_some()
            };
            (0..100).take_while(hold).count()
        };
        let short = SHORT - BASE;
        assert_eq!(fill(one, MIB), 5, "an eighth is left to short requests");
        assert_eq!(fill(one, short), 16, "the rest of the address's share");
        assert_eq!(fill(other, MIB), 1, "what is left to others");
        assert_eq!(fill(other, short), 16);
        assert!(!budget.take(1, other, 1) && !budget.take(1, one, 1));
    }

    #[test]
    fn a_frame_gets_memory_by_what_has_arrived_and_not_by_what_its_header_says() {
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
        // While memory is short, a buffer that has grown holds no more either.
        buffer.consume(MIB - 100);
        buffer.fit();
        assert_eq!(buffer.budgeted(), MIB - BASE, "memory is not short");
        assert!(budget.take_unused(5 * MIB, 0));
        buffer.fit();
        assert_eq!((buffer.budgeted(), buffer.len()), (0, 100));
    }
}
