//! Which turns of a connection on a shared thread come after those of other connections: long ones,
//! and those that wait for buffer memory.

use crate::server::buffer::Buffer;
use crate::server::holders::STALLED;
use dsm_core::layout::MAX_ATOMIC;
use dsm_core::protocol::{HEADER, MemoryRange, Opcode};
use std::time::{Duration, Instant};

/// Bytes of replies that a shared thread sends to one connection before it looks for short requests
/// on others. To copy and send them takes about 100 µs. Smaller parts cost long reads more than they
/// save short ones.
pub(super) const PART: usize = 512 << 10;

/// After a long turn of a connection, so many of its turns count as long.
const LONG_TURNS: u8 = 4;

/// How long a long read waits for buffer memory: until peers that began to hold memory before it
/// are stalled, and lose it.
const MEMORY_TIMEOUT: Duration = STALLED.saturating_add(Duration::from_millis(50));

/// See the module's comment.
#[derive(Debug, Default)]
pub(super) struct Deferral {
    /// How many of the next turns count as long.
    long_turns: u8,
    /// Until when the next request waits for buffer memory.
    memory_deadline: Option<Instant>,
}

impl Deferral {
    /// A turn begins.
    #[inline]
    pub(super) fn begin_turn(&mut self) {
        self.long_turns = self.long_turns.saturating_sub(1);
    }

    /// This turn is long.
    pub(super) fn set_long(&mut self) {
        self.long_turns = LONG_TURNS;
    }

    /// Whether the next turn will probably be long.
    pub(super) fn is_long(&self) -> bool {
        self.long_turns > 0
    }

    /// Whether the next request waits for buffer memory.
    pub(super) fn is_starved(&self) -> bool {
        self.memory_deadline.is_some()
    }

    /// Whether to execute the request in a later turn, because it is the first long one, and short
    /// requests of other connections may be due, or because there is no memory for its reply yet.
    /// `operand` is that of its header, which is not validated yet.
    #[inline]
    pub(super) fn defers(&mut self, opcode: u8, operand: u64, output: &mut Buffer) -> bool {
        operand > PART as u64 && self.defers_long(opcode, operand, output)
    }

    #[cold]
    fn defers_long(&mut self, opcode: u8, operand: u64, output: &mut Buffer) -> bool {
        let length = usize::try_from(operand.min(MAX_ATOMIC + 1)).unwrap_or(usize::MAX);
        match Opcode::from_number(opcode) {
            Some(opcode) if opcode.entry().range == MemoryRange::Operand => {
                let is_first = !self.is_long();
                self.set_long();
                is_first || opcode == Opcode::Read && self.lacks_memory(length, output)
            }
            _ => false,
        }
    }

    /// Whether a reply with this much data has to wait for memory. When it has waited for
    /// [`MEMORY_TIMEOUT`], its request is executed, and refused if there is still none.
    fn lacks_memory(&mut self, length: usize, output: &mut Buffer) -> bool {
        let now = Instant::now();
        let deadline = *self.memory_deadline.get_or_insert(now + MEMORY_TIMEOUT);
        let waits = now < deadline && output.reserve(HEADER + length).is_err();
        if !waits {
            self.memory_deadline = None;
        }
        waits
    }
}
