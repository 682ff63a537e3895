//! Frames: pages of one server with a checksum, each compressed independently of the others. No
//! I/O: bytes in, bytes out.

use super::Header;
use super::format::{FRAME_HEADER, PAGE_BYTES, RawFrame, STORED, ZSTD};
use dsm_config::Compression;
use dsm_core::layout::PAGE;
use std::ops::Range;
use zerocopy::{FromBytes, IntoBytes};

/// Why bytes are not a sound frame of this snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A field of the header has a value that is not allowed.
    #[error("{field} is {found}: allowed is {allowed}")]
    Field {
        /// Which field.
        field: &'static str,
        /// Its value.
        found: u64,
        /// The values that are allowed.
        allowed: &'static str,
    },
    /// The number of bytes is not the one in the header.
    #[error("it has {found} stored bytes, and its header says {expected}")]
    Length {
        /// What the header says.
        expected: usize,
        /// The number of bytes.
        found: usize,
    },
    /// The checksum does not match.
    #[error("its checksum is {expected:08x}, and its bytes have {found:08x}")]
    Checksum {
        /// What the header says.
        expected: u32,
        /// The checksum of the bytes.
        found: u32,
    },
    /// The stored bytes do not decompress to the length in the header.
    #[error("its bytes do not decompress to {0} bytes")]
    Compression(usize),
}

/// The header of a frame, checked against the header of its snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    server: usize,
    first_page: u64,
    address: u64,
    raw_length: usize,
    stored_length: usize,
    compressed: bool,
    checksum: u32,
}

impl FrameHeader {
    /// Parses the header of a frame and checks all fields but the checksum against the snapshot's
    /// header.
    ///
    /// # Errors
    /// The first field whose value is not allowed.
    pub fn parse(bytes: &[u8; FRAME_HEADER], snapshot: &Header) -> Result<Self, FrameError> {
        let raw = RawFrame::read_from_bytes(bytes).map_err(|_| FrameError::Length {
            expected: FRAME_HEADER,
            found: bytes.len(),
        })?;
        let check = |field, found: u64, good: bool, allowed| {
            if good {
                Ok(())
            } else {
                Err(FrameError::Field {
                    field,
                    found,
                    allowed,
                })
            }
        };
        let (k, server) = (snapshot.layout().share_size(), raw.server.get() as usize);
        check(
            "server",
            server as u64,
            snapshot.has(server),
            "a server that is in the snapshot",
        )?;
        let (first, pages) = (raw.first_page.get(), u64::from(raw.pages.get()));
        check(
            "first page",
            first,
            first < k / PAGE,
            "a page of the segment",
        )?;
        check(
            "number of pages",
            pages,
            pages > 0 && pages <= k / PAGE - first,
            "from 1 to the segment's end",
        )?;
        let raw_length = u64::from(raw.raw_length.get());
        check(
            "raw length",
            raw_length,
            raw_length == pages * PAGE,
            "the length of its pages",
        )?;
        check(
            "raw length",
            raw_length,
            raw_length <= u64::from(snapshot.frame_size()),
            "up to the frame size",
        )?;
        let stored_length = u64::from(raw.stored_length.get());
        let compressed = raw.compression == ZSTD;
        check(
            "compression",
            raw.compression.into(),
            compressed || raw.compression == STORED,
            "0 (stored), 1 (zstd)",
        )?;
        let possible = if compressed {
            (1..raw_length).contains(&stored_length)
        } else {
            stored_length == raw_length
        };
        check(
            "stored length",
            stored_length,
            possible,
            "the raw length when stored, less when compressed",
        )?;
        check(
            "a reserved byte",
            raw.reserved.into_iter().map(u64::from).sum(),
            raw.reserved == [0; 3],
            "0",
        )?;
        Ok(Self {
            server,
            first_page: first,
            address: snapshot.addresses_of(server).start + first * PAGE,
            raw_length: raw.raw_length.get() as usize,
            stored_length: raw.stored_length.get() as usize,
            compressed,
            checksum: raw.checksum.get(),
        })
    }

    /// The index of the server whose pages the frame holds.
    #[must_use]
    pub fn server(&self) -> usize {
        self.server
    }

    /// The first page, counted in the segment of that server.
    #[must_use]
    pub fn first_page(&self) -> u64 {
        self.first_page
    }

    /// The number of pages.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.raw_length as u64 / PAGE
    }

    /// The addresses that the frame covers.
    #[must_use]
    pub fn addresses(&self) -> Range<u64> {
        self.address..self.address + self.raw_length as u64
    }

    /// Bytes of memory that the frame covers; never more than the snapshot's frame size.
    #[must_use]
    pub fn raw_length(&self) -> usize {
        self.raw_length
    }

    /// Bytes after the header; never more than `raw_length`.
    #[must_use]
    pub fn stored_length(&self) -> usize {
        self.stored_length
    }
}

/// A whole frame whose checksum matches.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    header: FrameHeader,
    bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Checks a whole frame, header and stored bytes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &'a [u8], snapshot: &Header) -> Result<Self, FrameError> {
        let (head, stored) =
            bytes
                .split_first_chunk::<FRAME_HEADER>()
                .ok_or(FrameError::Length {
                    expected: FRAME_HEADER,
                    found: bytes.len(),
                })?;
        let header = FrameHeader::parse(head, snapshot)?;
        if stored.len() != header.stored_length {
            return Err(FrameError::Length {
                expected: header.stored_length,
                found: stored.len(),
            });
        }
        let found = checksum(head, stored);
        if found != header.checksum {
            return Err(FrameError::Checksum {
                expected: header.checksum,
                found,
            });
        }
        Ok(Self { header, bytes })
    }

    /// Its header.
    #[must_use]
    pub fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// All bytes of the frame, header first.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    fn stored(&self) -> &'a [u8] {
        &self.bytes[FRAME_HEADER..]
    }
}

/// The checksum of a frame: of the other fields of its header, then of its stored bytes.
fn checksum(header: &[u8; FRAME_HEADER], stored: &[u8]) -> u32 {
    let fields = &header[..std::mem::offset_of!(RawFrame, checksum)];
    crc32c::crc32c_append(crc32c::crc32c(fields), stored)
}

/// Makes frames of the pages of one server: joins consecutive pages, and leaves out pages that are
/// all zeros.
pub struct FrameEncoder {
    server: u32,
    frame_size: usize,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    first_page: u64,
    /// Space for a header, then the pages, so that a frame that is stored needs no copy of them.
    stored: Vec<u8>,
    /// The same pages, compressed.
    compressed: Vec<u8>,
}

/// A page of zeros. Comparing a page with it is faster than testing each byte.
pub static ZERO_PAGE: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

impl FrameEncoder {
    /// An encoder for the pages of server `server`, in frames of the size that `snapshot` gives.
    ///
    /// # Errors
    /// When zstd cannot allocate memory.
    pub fn new(
        server: usize,
        snapshot: &Header,
        compression: Compression,
    ) -> std::io::Result<Self> {
        let compressor = match compression.level() {
            None => None,
            Some(level) => Some(zstd::bulk::Compressor::new(level.number())?),
        };
        let frame_size = snapshot.frame_size() as usize;
        #[allow(clippy::cast_possible_truncation)]
        // an index of the map; the writer refuses a frame with another
        let server = server as u32;
        let mut stored = Vec::with_capacity(FRAME_HEADER + frame_size);
        stored.resize(FRAME_HEADER, 0);
        Ok(Self {
            server,
            frame_size,
            compressor,
            first_page: 0,
            stored,
            compressed: vec![],
        })
    }

    /// Adds pages, beginning with page `first_page`. `bytes` are whole pages; a shorter rest is
    /// ignored. Passes complete frames to `emit`.
    ///
    /// # Errors
    /// The errors of `emit`.
    pub fn add<E>(
        &mut self,
        first_page: u64,
        bytes: &[u8],
        mut emit: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for (page, bytes) in (first_page..).zip(bytes.chunks_exact(PAGE_BYTES)) {
            if bytes == ZERO_PAGE {
                continue;
            }
            let next = self.first_page + (self.raw_length() / PAGE_BYTES) as u64;
            if self.raw_length() == self.frame_size || next != page {
                self.flush(&mut emit)?;
            }
            if self.raw_length() == 0 {
                self.first_page = page;
            }
            self.stored.extend_from_slice(bytes);
        }
        Ok(())
    }

    /// Passes the pages that are left to `emit`, as a frame. The caller calls it after the last
    /// page.
    ///
    /// # Errors
    /// The errors of `emit`.
    pub fn flush<E>(&mut self, mut emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if self.raw_length() == 0 {
            return Ok(());
        }
        let emitted = emit(self.encode());
        self.stored.truncate(FRAME_HEADER);
        emitted
    }

    /// Bytes of the pages that are not in a frame yet.
    fn raw_length(&self) -> usize {
        self.stored.len() - FRAME_HEADER
    }

    #[allow(clippy::cast_possible_truncation)] // lengths are at most MAX_FRAME
    fn encode(&mut self) -> &[u8] {
        let raw_length = self.raw_length();
        let shorter = self.compress();
        let frame = if shorter {
            &mut self.compressed
        } else {
            &mut self.stored
        };
        let mut header = RawFrame {
            server: self.server.into(),
            pages: ((raw_length / PAGE_BYTES) as u32).into(),
            first_page: self.first_page.into(),
            raw_length: (raw_length as u32).into(),
            stored_length: ((frame.len() - FRAME_HEADER) as u32).into(),
            compression: if shorter { ZSTD } else { STORED },
            reserved: [0; 3],
            checksum: 0.into(),
        };
        frame[..FRAME_HEADER].copy_from_slice(header.as_bytes());
        if let Some((head, data)) = frame.split_first_chunk() {
            header.checksum = checksum(head, data).into();
        }
        frame[..FRAME_HEADER].copy_from_slice(header.as_bytes());
        frame
    }

    /// Compresses the pages. Returns false when that does not make them shorter: they are stored
    /// then.
    fn compress(&mut self) -> bool {
        let raw_length = self.raw_length();
        let Some(zstd) = &mut self.compressor else {
            return false;
        };
        self.compressed.resize(FRAME_HEADER + raw_length - 1, 0);
        let room = &mut self.compressed[FRAME_HEADER..];
        let length = zstd
            .compress_to_buffer(&self.stored[FRAME_HEADER..], room)
            .ok();
        self.compressed.truncate(FRAME_HEADER + length.unwrap_or(0));
        length.is_some()
    }
}

/// Decompresses frames, and reuses its buffer for the next frame.
pub struct FrameDecoder {
    decompressor: zstd::bulk::Decompressor<'static>,
    raw: Vec<u8>,
}

impl FrameDecoder {
    /// A decoder.
    ///
    /// # Errors
    /// When zstd cannot allocate memory.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            decompressor: zstd::bulk::Decompressor::new()?,
            raw: Vec::new(),
        })
    }

    /// The pages of a frame, as they were in memory.
    ///
    /// # Errors
    /// [`FrameError::Compression`]
    pub fn decode<'a>(&'a mut self, frame: &Frame<'a>) -> Result<&'a [u8], FrameError> {
        if !frame.header.compressed {
            return Ok(frame.stored());
        }
        let length = frame.header.raw_length;
        self.raw.resize(length, 0);
        let found = self
            .decompressor
            .decompress_to_buffer(frame.stored(), &mut self.raw[..]);
        if found.ok() == Some(length) {
            Ok(&self.raw)
        } else {
            Err(FrameError::Compression(length))
        }
    }
}
