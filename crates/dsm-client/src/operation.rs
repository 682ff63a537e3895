//! The operations on the memory, as methods of [`Client`] and of [`Pipeline`]. They are in one file
//! since a new one is added to both.

use super::call::{CallKind, CallOutput};
use super::copy::{self, Step};
use super::error::{Effect, Error};
use super::{Client, Pipeline};
use dsm_core::Address;
use dsm_core::layout::Piece;
use dsm_core::protocol::AtomicOperation;
use std::ops::Range;
use std::time::Instant;

/// A read longer than this, in bytes, first makes sure that this process can have the memory: to
/// allocate it in vain would end the process.
const LARGE: u64 = 16 << 20;

/// The words of a compare-and-swap. It is written with its fields' names, so that the two cannot
/// change places; the operation has no others, so it can be built without a constructor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompareAndSwap {
    /// What the word must be, to be replaced.
    pub expected: u64,
    /// What it is replaced with.
    pub new: u64,
}

impl CompareAndSwap {
    pub(super) fn operation(self) -> AtomicOperation {
        AtomicOperation::CompareAndSwap {
            expected: self.expected,
            new: self.new,
        }
    }
}

impl Client {
    /// Reads `length` bytes.
    ///
    /// # Errors
    /// [`ErrorKind::OutsideMemory`](crate::ErrorKind::OutsideMemory),
    /// [`ErrorKind::NoRoom`](crate::ErrorKind::NoRoom), or what went wrong at a server; see
    /// [`Error`].
    pub fn read(&self, address: impl Into<Address>, length: u64) -> Result<Vec<u8>, Error> {
        let address = address.into();
        // Before the allocation: the length may be anything.
        self.shared.pieces(address.get(), length).map(drop)?;
        let no_room = || Error::no_room(length);
        let bytes = usize::try_from(length).map_err(|_| no_room())?;
        if length > LARGE {
            Vec::<u8>::new()
                .try_reserve_exact(bytes)
                .map_err(|_| no_room())?;
        }
        let mut data = vec![0; bytes];
        self.read_into(address, &mut data)?;
        Ok(data)
    }

    /// Reads as many bytes as `buffer` has. After an error, the buffer's contents are unspecified.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub fn read_into(&self, address: impl Into<Address>, buffer: &mut [u8]) -> Result<(), Error> {
        let address = address.into().get();
        if let Some(piece) = self.only_piece(address, buffer.len() as u64)? {
            return self.part(piece, CallKind::ReadInto(buffer), None).map(drop);
        }
        self.call(self.deadline(), |pipeline| {
            pipeline.read_into(address, buffer)
        })
        .map(drop)
    }

    /// Writes `data`. When this returns, the bytes are in the server's shared memory and survive
    /// the death of dsmd.
    ///
    /// # Errors
    /// [`ErrorKind::OutsideMemory`](crate::ErrorKind::OutsideMemory), or what went wrong at a
    /// server; see [`Error`].
    pub fn write(&self, address: impl Into<Address>, data: &[u8]) -> Result<(), Error> {
        let address = address.into().get();
        if let Some(piece) = self.only_piece(address, data.len() as u64)? {
            return self.part(piece, CallKind::Write(data), None).map(drop);
        }
        self.call(self.deadline(), |pipeline| pipeline.write(address, data))
            .map(drop)
    }

    /// Sets `length` bytes to `byte`.
    ///
    /// # Errors
    /// As [`Client::write`].
    pub fn fill(&self, address: impl Into<Address>, length: u64, byte: u8) -> Result<(), Error> {
        let address = address.into().get();
        if let Some(piece) = self.only_piece(address, length)? {
            return self.part(piece, CallKind::Fill(byte), None).map(drop);
        }
        self.call(self.deadline(), |pipeline| {
            pipeline.fill(address, length, byte)
        })
        .map(drop)
    }

    /// Copies the bytes of `source` to the range of the same length that begins at `destination`;
    /// the ranges may overlap. Where both are on one server, the bytes stay there; else they come
    /// through this process.
    ///
    /// # Errors
    /// [`ErrorKind::OutsideMemory`](crate::ErrorKind::OutsideMemory), also for a source that ends
    /// before it begins, and as [`Client::write`]; parts of the copy may then be done.
    pub fn copy(&self, source: Range<u64>, destination: impl Into<Address>) -> Result<(), Error> {
        let (from, to) = (source.start, destination.into().get());
        let Some(length) = source.end.checked_sub(from) else {
            return Err(Error::reversed(&source));
        };
        self.shared.pieces(from, length).map(drop)?;
        self.shared.pieces(to, length).map(drop)?;
        if from == to {
            return Ok(());
        }
        let deadline = self.deadline();
        let backward = copy::is_backward(from, to, length);
        let mut carried = Vec::new();
        for (number, step) in copy::steps(&self.shared.layout, from, to, length).enumerate() {
            self.copy_step(&step, backward, &mut carried, deadline)
                .map_err(|error| match number {
                    0 => error,
                    // The steps before it changed the memory.
                    _ => error.with_effect(Effect::Possible),
                })?;
        }
        Ok(())
    }

    fn copy_step(
        &self,
        step: &Step,
        backward: bool,
        carried: &mut Vec<u8>,
        deadline: Instant,
    ) -> Result<(), Error> {
        if step.same_server
            && let Some(piece) = self.only_piece(step.to, step.length)?
        {
            let from = step.from % self.shared.layout.share_size();
            return self
                .part(piece, CallKind::Copy { from, backward }, Some(deadline))
                .map(drop);
        }
        // Such a step has at most 4 MiB.
        #[allow(clippy::cast_possible_truncation)]
        carried.resize(step.length as usize, 0);
        self.call(deadline, |pipeline| pipeline.read_into(step.from, carried))?;
        self.call(deadline, |pipeline| pipeline.write(step.to, carried))
            .map(drop)
    }

    /// Adds to the word at `address`, a multiple of eight, wrapping at 2^64; returns the old value.
    /// Words are little-endian.
    ///
    /// # Errors
    /// [`ErrorKind::Unaligned`](crate::ErrorKind::Unaligned), and as [`Client::write`].
    pub fn fetch_add(&self, address: impl Into<Address>, operand: u64) -> Result<u64, Error> {
        self.atomic(address.into().get(), AtomicOperation::Add(operand))
    }

    /// Replaces the word at `address`; returns the old value.
    ///
    /// # Errors
    /// As [`Client::fetch_add`].
    pub fn swap(&self, address: impl Into<Address>, new: u64) -> Result<u64, Error> {
        self.atomic(address.into().get(), AtomicOperation::Swap(new))
    }

    /// Replaces the word at `address` if it is `expected`; returns the old value. It was replaced
    /// if and only if that is `expected`.
    ///
    /// # Errors
    /// As [`Client::fetch_add`].
    pub fn compare_and_swap(
        &self,
        address: impl Into<Address>,
        words: CompareAndSwap,
    ) -> Result<u64, Error> {
        self.atomic(address.into().get(), words.operation())
    }

    /// Bitwise and on the word at `address`; returns the old value.
    ///
    /// # Errors
    /// As [`Client::fetch_add`].
    pub fn fetch_and(&self, address: impl Into<Address>, operand: u64) -> Result<u64, Error> {
        self.atomic(address.into().get(), AtomicOperation::And(operand))
    }

    /// Bitwise or on the word at `address`; returns the old value.
    ///
    /// # Errors
    /// As [`Client::fetch_add`].
    pub fn fetch_or(&self, address: impl Into<Address>, operand: u64) -> Result<u64, Error> {
        self.atomic(address.into().get(), AtomicOperation::Or(operand))
    }

    /// Bitwise exclusive or on the word at `address`; returns the old value.
    ///
    /// # Errors
    /// As [`Client::fetch_add`].
    pub fn fetch_xor(&self, address: impl Into<Address>, operand: u64) -> Result<u64, Error> {
        self.atomic(address.into().get(), AtomicOperation::Xor(operand))
    }

    fn atomic(&self, address: u64, operation: AtomicOperation) -> Result<u64, Error> {
        if !address.is_multiple_of(8) {
            return Err(Error::unaligned(address));
        }
        // k is a multiple of eight: an aligned word is on one server.
        let Some(piece) = self.only_piece(address, 8)? else {
            return Err(Error::unaligned(address));
        };
        match self.part(piece, CallKind::Atomic(operation), None)? {
            CallOutput::Old(old) => Ok(old),
            value => Err(self.unexpected(piece.server, &value)),
        }
    }
}

impl<'a> Pipeline<'a> {
    /// Submits a read of `length` bytes; its outcome is [`Reply::Data`](crate::Reply::Data).
    ///
    /// # Errors
    /// [`ErrorKind::OutsideMemory`](crate::ErrorKind::OutsideMemory); or
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) for a server with 128 requests
    /// that did not reply before the deadline. The request was not submitted then.
    pub fn read(&mut self, address: impl Into<Address>, length: u64) -> Result<(), Error> {
        let address = address.into().get();
        self.submit(address, length, |_| CallKind::Read(Vec::new()))?;
        if let Some(request) = self.submitted.back_mut() {
            request.reads = true;
        }
        Ok(())
    }

    /// Submits a read of as many bytes as `buffer` has; its outcome is
    /// [`Reply::Done`](crate::Reply::Done), and then the bytes are in `buffer`. Until then, and after
    /// an error, the buffer's contents are unspecified.
    ///
    /// # Errors
    /// As [`Pipeline::read`].
    pub fn read_into(
        &mut self,
        address: impl Into<Address>,
        buffer: &'a mut [u8],
    ) -> Result<(), Error> {
        let address = address.into().get();
        let length = buffer.len() as u64;
        let mut rest = buffer;
        self.submit(address, length, |piece| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(length_of(piece));
            rest = tail;
            CallKind::ReadInto(head)
        })
    }

    /// Submits a write; its outcome is [`Reply::Done`](crate::Reply::Done).
    ///
    /// # Errors
    /// As [`Pipeline::read`].
    pub fn write(&mut self, address: impl Into<Address>, data: &'a [u8]) -> Result<(), Error> {
        let address = address.into().get();
        let mut rest = data;
        self.submit(address, data.len() as u64, |piece| {
            let (head, tail) = rest.split_at(length_of(piece));
            rest = tail;
            CallKind::Write(head)
        })
    }

    /// Submits the setting of `length` bytes to `byte`; its outcome is
    /// [`Reply::Done`](crate::Reply::Done).
    ///
    /// # Errors
    /// As [`Pipeline::read`].
    pub fn fill(
        &mut self,
        address: impl Into<Address>,
        length: u64,
        byte: u8,
    ) -> Result<(), Error> {
        let address = address.into().get();
        self.submit(address, length, |_| CallKind::Fill(byte))
    }

    /// Submits an addition to the word at `address`, wrapping at 2^64; its outcome is
    /// [`Reply::Old`](crate::Reply::Old).
    ///
    /// # Errors
    /// [`ErrorKind::Unaligned`](crate::ErrorKind::Unaligned), and as [`Pipeline::read`].
    pub fn fetch_add(&mut self, address: impl Into<Address>, operand: u64) -> Result<(), Error> {
        self.atomic(address.into().get(), AtomicOperation::Add(operand))
    }

    /// Submits the replacement of the word at `address`; its outcome is
    /// [`Reply::Old`](crate::Reply::Old).
    ///
    /// # Errors
    /// As [`Pipeline::fetch_add`].
    pub fn swap(&mut self, address: impl Into<Address>, new: u64) -> Result<(), Error> {
        self.atomic(address.into().get(), AtomicOperation::Swap(new))
    }

    /// Submits the replacement of the word at `address` if it is `expected`; its outcome is
    /// [`Reply::Old`](crate::Reply::Old).
    ///
    /// # Errors
    /// As [`Pipeline::fetch_add`].
    pub fn compare_and_swap(
        &mut self,
        address: impl Into<Address>,
        words: CompareAndSwap,
    ) -> Result<(), Error> {
        self.atomic(address.into().get(), words.operation())
    }

    /// Submits a bitwise and on the word at `address`; its outcome is
    /// [`Reply::Old`](crate::Reply::Old).
    ///
    /// # Errors
    /// As [`Pipeline::fetch_add`].
    pub fn fetch_and(&mut self, address: impl Into<Address>, operand: u64) -> Result<(), Error> {
        self.atomic(address.into().get(), AtomicOperation::And(operand))
    }

    /// Submits a bitwise or on the word at `address`; its outcome is
    /// [`Reply::Old`](crate::Reply::Old).
    ///
    /// # Errors
    /// As [`Pipeline::fetch_add`].
    pub fn fetch_or(&mut self, address: impl Into<Address>, operand: u64) -> Result<(), Error> {
        self.atomic(address.into().get(), AtomicOperation::Or(operand))
    }

    /// Submits a bitwise exclusive or on the word at `address`; its outcome is
    /// [`Reply::Old`](crate::Reply::Old).
    ///
    /// # Errors
    /// As [`Pipeline::fetch_add`].
    pub fn fetch_xor(&mut self, address: impl Into<Address>, operand: u64) -> Result<(), Error> {
        self.atomic(address.into().get(), AtomicOperation::Xor(operand))
    }

    fn atomic(&mut self, address: u64, operation: AtomicOperation) -> Result<(), Error> {
        if !address.is_multiple_of(8) {
            return Err(Error::unaligned(address));
        }
        self.submit(address, 8, |_| CallKind::Atomic(operation))
    }
}

#[allow(clippy::cast_possible_truncation)] // a piece of a slice
fn length_of(piece: Piece) -> usize {
    piece.length as usize
}
