//! Reads any range of a snapshot file without reading the rest, in bounded memory.

use super::error::ReadError;
use super::format::{ENTRY, FOOTER, MAX_HEADER};
use super::frame::{Frame, FrameDecoder};
use super::index::{Footer, FrameExtent};
use super::stream::for_each_part;
use super::{Header, HeaderError};
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Entries of the index that are read at a time.
const ENTRIES_AT_ONCE: usize = 1024;

/// The bytes of a snapshot file: a file, or a slice in memory.
pub trait SnapshotSource {
    /// Fills `buffer` with the bytes at `offset`.
    ///
    /// # Errors
    /// When they cannot be read, or the file ends before `buffer` is full.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// The number of bytes.
    ///
    /// # Errors
    /// When the length cannot be read.
    fn length(&self) -> io::Result<u64>;
}

impl SnapshotSource for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl SnapshotSource for &[u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.get(offset..));
        let bytes = rest
            .and_then(|rest| rest.get(..buffer.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

/// An open snapshot whose header, footer and index are sound. A damaged frame is an error when it
/// is read, and in [`SnapshotFile::verify`].
#[derive(Debug)]
pub struct SnapshotFile<S = File> {
    pub(super) path: PathBuf,
    pub(super) source: S,
    pub(super) header: Header,
    pub(super) footer: Footer,
    pub(super) length: u64,
}

/// The buffers for reading frames, reused from frame to frame. They hold the bytes of at most two
/// frames.
pub struct FrameBuffer {
    decoder: FrameDecoder,
    bytes: Vec<u8>,
}

impl FrameBuffer {
    /// Empty buffers.
    ///
    /// # Errors
    /// When zstd cannot allocate memory.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            decoder: FrameDecoder::new()?,
            bytes: Vec::new(),
        })
    }
}

impl SnapshotFile {
    /// Opens a file and checks its header, footer and index.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        Self::from_source(path, open_regular(path)?)
    }

    /// Reads only the header of a file. The rest of the file may be damaged.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read_header(path: &Path) -> Result<Header, ReadError> {
        let file = open_regular(path)?;
        let length = file
            .length()
            .map_err(ReadError::system("cannot read", path))?;
        read_header(path, &file, length).map(|(header, _)| header)
    }

    /// The metadata of the file.
    ///
    /// # Errors
    /// [`ReadError::System`].
    pub fn metadata(&self) -> Result<Metadata, ReadError> {
        self.source
            .metadata()
            .map_err(ReadError::system("cannot read the metadata of", &self.path))
    }
}

impl<S: SnapshotSource> SnapshotFile<S> {
    /// The same as [`SnapshotFile::open`] for any source of bytes; `path` names it in errors.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn from_source(path: &Path, source: S) -> Result<Self, ReadError> {
        let length = source
            .length()
            .map_err(ReadError::system("cannot read", path))?;
        let (header, header_length) = read_header(path, &source, length)?;
        let damaged = |what| ReadError::Footer {
            path: path.to_owned(),
            what,
        };
        let at = length
            .checked_sub(FOOTER as u64)
            .filter(|at| *at >= header_length as u64);
        let at = at.ok_or_else(|| damaged("it ends after its header"))?;
        let mut bytes = [0; FOOTER];
        source
            .read_exact_at(&mut bytes, at)
            .map_err(ReadError::system("cannot read", path))?;
        let footer = Footer::parse(&bytes, header_length as u64, length).map_err(damaged)?;
        let file = Self {
            path: path.to_owned(),
            source,
            header,
            footer,
            length,
        };
        file.check_index()?;
        Ok(file)
    }

    /// The header of the file.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The length of the file in bytes.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.length
    }

    /// The number of frames in the file.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.footer.count
    }

    /// Checks that a range is in the snapshot. Reading the range checks it, too.
    ///
    /// # Errors
    /// When the range is not in the memory, or the snapshot lacks a server that held a part of it.
    pub fn check_range(&self, address: u64, length: u64) -> Result<(), ReadError> {
        let pieces = self.header.layout().pieces(address, length)?;
        match pieces
            .map(|piece| piece.server)
            .find(|server| !self.header.has(*server))
        {
            Some(server) => {
                let addresses = self.header.addresses_of(server);
                Err(ReadError::Missing {
                    path: self.path.clone(),
                    server,
                    addresses,
                })
            }
            None => Ok(()),
        }
    }

    /// Fills `buffer` with the memory at `address`, as it was at the cut.
    ///
    /// # Errors
    /// When the range is not in the memory, the snapshot lacks a server that held a part of it, or
    /// a frame is damaged.
    pub fn read_range(&self, address: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.check_range(address, buffer.len() as u64)?;
        buffer.fill(0);
        for_each_part(
            self,
            &(address..address + buffer.len() as u64),
            |at, bytes| {
                // It fits: the part is inside the buffer.
                #[allow(clippy::cast_possible_truncation)]
                let place = (at - address) as usize;
                buffer[place..place + bytes.len()].copy_from_slice(bytes);
                Ok(())
            },
        )
    }

    /// The frames that cover any of `addresses`, in ascending order. Bytes that no frame covers are
    /// zeros, unless the snapshot lacks their server.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn extents(&self, addresses: Range<u64>) -> Result<FrameExtents<'_, S>, ReadError> {
        let next = self.first_entry_after(addresses.start)?;
        let chunk = Vec::new().into_iter();
        Ok(FrameExtents {
            file: self,
            next,
            end: addresses.end,
            chunk,
            failed: false,
        })
    }

    /// The bytes that a frame covers.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn read_frame<'b>(
        &self,
        extent: &FrameExtent,
        buffer: &'b mut FrameBuffer,
    ) -> Result<&'b [u8], ReadError> {
        let FrameBuffer { decoder, bytes } = buffer;
        bytes.resize(usize::try_from(extent.in_file()).unwrap_or(usize::MAX), 0);
        self.read_at(bytes, extent.offset)?;
        let frame =
            Frame::parse(bytes, &self.header).map_err(|error| self.bad_frame(extent, &error))?;
        if frame.header().addresses() != extent.addresses() {
            return Err(self.bad_frame(extent, &"its addresses are not the ones in the index"));
        }
        decoder
            .decode(&frame)
            .map_err(|error| self.bad_frame(extent, &error))
    }

    pub(super) fn bad_frame(
        &self,
        extent: &FrameExtent,
        reason: &dyn std::fmt::Display,
    ) -> ReadError {
        let (path, offset, addresses) = (self.path.clone(), extent.offset, extent.addresses());
        ReadError::Frame {
            path,
            offset,
            addresses,
            reason: reason.to_string(),
        }
    }

    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), ReadError> {
        self.source
            .read_exact_at(buffer, offset)
            .map_err(ReadError::system("cannot read", &self.path))
    }

    /// The entry of the frame that covers the address, if there is one.
    pub(super) fn extent_at(&self, address: u64) -> Result<Option<FrameExtent>, ReadError> {
        self.extents(address..address.saturating_add(1))?
            .next()
            .transpose()
    }

    /// The number of the first entry whose frame ends after `address`.
    fn first_entry_after(&self, address: u64) -> Result<u64, ReadError> {
        let (mut low, mut high) = (0, self.footer.count);
        while low < high {
            let middle = low.midpoint(high);
            let mut bytes = [0; ENTRY];
            self.read_at(&mut bytes, self.entry_offset(middle))?;
            if self.entry(middle, &bytes)?.addresses().end > address {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low)
    }

    fn entry_offset(&self, number: u64) -> u64 {
        self.footer.frames.end + number * ENTRY as u64
    }

    fn entry(&self, number: u64, bytes: &[u8; ENTRY]) -> Result<FrameExtent, ReadError> {
        FrameExtent::parse(bytes, &self.header, &self.footer.frames)
            .map_err(|what| self.bad_index(format!("has {what} in entry {number}")))
    }

    fn bad_index(&self, what: String) -> ReadError {
        ReadError::Index {
            path: self.path.clone(),
            what,
        }
    }

    /// Reads up to `ENTRIES_AT_ONCE` entries, beginning with entry `next`, and does not check them.
    pub(super) fn read_entries(&self, next: u64) -> Result<Vec<u8>, ReadError> {
        let left = usize::try_from(self.footer.count - next).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(ENTRIES_AT_ONCE) * ENTRY];
        self.read_at(&mut bytes, self.entry_offset(next))?;
        Ok(bytes)
    }

    fn check_index(&self) -> Result<(), ReadError> {
        let (mut number, mut checksum, mut covered, mut in_frames) = (0, 0, 0, 0);
        while number < self.footer.count {
            let bytes = self.read_entries(number)?;
            checksum = crc32c::crc32c_append(checksum, &bytes);
            for entry in bytes.as_chunks().0 {
                let extent = self.entry(number, entry)?;
                if extent.address < covered {
                    return Err(self.bad_index(format!("is not in order at entry {number}")));
                }
                covered = extent.addresses().end;
                in_frames += extent.in_file();
                number += 1;
            }
        }
        if checksum != self.footer.index_checksum {
            let expected = self.footer.index_checksum;
            return Err(self.bad_index(format!(
                "has the checksum {checksum:08x} instead of {expected:08x}"
            )));
        }
        let expected = self.footer.frames.end - self.footer.frames.start;
        if in_frames != expected {
            return Err(self.bad_index(format!(
                "names {in_frames} bytes of frames, and the file has {expected}"
            )));
        }
        Ok(())
    }
}

/// An iterator over frames in ascending order of their addresses: see [`SnapshotFile::extents`].
pub struct FrameExtents<'a, S = File> {
    file: &'a SnapshotFile<S>,
    next: u64,
    end: u64,
    chunk: std::vec::IntoIter<FrameExtent>,
    failed: bool,
}

impl<S: SnapshotSource> FrameExtents<'_, S> {
    fn read_chunk(&mut self) -> Result<(), ReadError> {
        let bytes = self.file.read_entries(self.next)?;
        let entries = (self.next..).zip(bytes.as_chunks().0);
        let extents = entries
            .map(|(number, entry)| self.file.entry(number, entry))
            .collect::<Result<Vec<_>, _>>()?;
        self.next += extents.len() as u64;
        self.chunk = extents.into_iter();
        Ok(())
    }
}

impl<S: SnapshotSource> Iterator for FrameExtents<'_, S> {
    type Item = Result<FrameExtent, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if self.chunk.len() == 0
            && self.next < self.file.footer.count
            && let Err(error) = self.read_chunk()
        {
            self.failed = true;
            return Some(Err(error));
        }
        let extent = self.chunk.next().filter(|extent| extent.address < self.end);
        self.failed = extent.is_none();
        extent.map(Ok)
    }
}

fn open_regular(path: &Path) -> Result<File, ReadError> {
    // Before opening it: open(2) of a pipe waits for its other end.
    let metadata = std::fs::metadata(path).map_err(ReadError::system("cannot open", path))?;
    if !metadata.is_file() {
        return Err(ReadError::NotAFile(path.to_owned()));
    }
    File::open(path).map_err(ReadError::system("cannot open", path))
}

fn read_header<S: SnapshotSource>(
    path: &Path,
    source: &S,
    length: u64,
) -> Result<(Header, usize), ReadError> {
    let mut bytes = vec![
        0;
        usize::try_from(length)
            .unwrap_or(MAX_HEADER)
            .min(MAX_HEADER)
    ];
    source
        .read_exact_at(&mut bytes, 0)
        .map_err(ReadError::system("cannot read", path))?;
    Header::parse(&bytes).map_err(|source: HeaderError| ReadError::Header {
        path: path.to_owned(),
        source,
    })
}
