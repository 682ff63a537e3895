//! Writes a file from pages, or from frames that agents made. The file gets its name only when it
//! is complete.

use super::Header;
use super::error::WriteError;
use super::format::{FOOTER_HASHED, FRAME_HEADER};
use super::frame::{Frame, FrameDecoder, FrameEncoder, FrameError, FrameHeader};
use super::index::{Footer, FrameExtent};
use super::name::FileName;
use super::partial::PartialFile;
use dsm_config::Compression;
use dsm_core::layout::PAGE;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Bytes of the write buffer, which joins small frames into one system call. Longer frames bypass
/// it.
const BUFFER: usize = 64 << 10;

/// Where a snapshot is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A new file in this directory, with the first name for its time that is not taken: see
    /// [`FileName`].
    Directory(PathBuf),
    /// Exactly this file.
    File(PathBuf),
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The path of the file.
    pub path: PathBuf,
    /// The number of frames.
    pub frames: u64,
    /// Bytes of memory that the frames cover; all other bytes were zeros.
    pub raw_bytes: u64,
    /// The length of the file in bytes.
    pub file_bytes: u64,
}

/// A snapshot that is being written. Dropping it before it is finished removes the partial file.
///
/// It keeps 24 bytes for each frame until the end, and the bytes of one frame.
pub struct SnapshotWriter {
    destination: Destination,
    name: FileName,
    compression: Compression,
    encoder: Option<(usize, FrameEncoder)>,
    decoder: FrameDecoder,
    output: FrameWriter,
}

/// Appends frames to the file, and hashes and indexes them.
struct FrameWriter {
    header: Header,
    file: BufWriter<PartialFile>,
    hasher: blake3::Hasher,
    offset: u64,
    /// The frames of each server, in ascending order. Joined, they are the index.
    extents: Vec<Vec<FrameExtent>>,
    raw_bytes: u64,
    broken: bool,
}

impl SnapshotWriter {
    /// Creates a partial file in the directory of the destination.
    ///
    /// # Errors
    /// When the file cannot be created, its name is taken, or another process is writing it.
    pub fn create(
        destination: Destination,
        header: Header,
        compression: Compression,
    ) -> Result<Self, WriteError> {
        let mut name = FileName::new(header.cut_time());
        let path = loop {
            let path = destination.path(name);
            if std::fs::symlink_metadata(&path).is_err() {
                break path;
            }
            name = destination.after(name).ok_or(WriteError::Exists(path))?;
        };
        let decoder =
            FrameDecoder::new().map_err(WriteError::system("no memory to compress", &path))?;
        let file = BufWriter::with_capacity(BUFFER, PartialFile::create(&path)?);
        let extents = vec![Vec::new(); header.layout().server_count()];
        let bytes = header.encode();
        let mut output = FrameWriter {
            header,
            file,
            hasher: blake3::Hasher::new(),
            offset: 0,
            extents,
            raw_bytes: 0,
            broken: false,
        };
        output.write(&bytes)?;
        // Written at once: if this process dies, the header identifies the partial file as a
        // snapshot.
        output.flush()?;
        Ok(Self {
            destination,
            name,
            compression,
            encoder: None,
            decoder,
            output,
        })
    }

    /// The snapshot's header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.output.header
    }

    /// The path of the partial file.
    #[must_use]
    pub fn partial_path(&self) -> &Path {
        self.output.file.get_ref().path()
    }

    /// Adds whole pages of server `server`, beginning with its page `first_page`. The pages of a
    /// server are added in ascending order; pages that are all zeros may be left out.
    ///
    /// # Errors
    /// When the bytes are not whole pages of that server, are out of order, or cannot be written.
    /// The snapshot cannot be finished then.
    pub fn add_pages(
        &mut self,
        server: usize,
        first_page: u64,
        bytes: &[u8],
    ) -> Result<(), WriteError> {
        let pages = self.output.header.layout().share_size() / PAGE;
        let whole = (bytes.len() as u64).is_multiple_of(PAGE);
        let inside = first_page
            .checked_add(bytes.len() as u64 / PAGE)
            .is_some_and(|end| end <= pages);
        if !self.output.header.has(server) || !whole || !inside {
            self.output.broken = true;
            return Err(WriteError::NotPages {
                server,
                first_page,
                length: bytes.len(),
            });
        }
        if self
            .encoder
            .as_ref()
            .is_none_or(|(other, _)| *other != server)
        {
            self.flush()?;
            let path = self.partial_path().to_owned();
            let encoder = FrameEncoder::new(server, &self.output.header, self.compression)
                .map_err(WriteError::system("no memory to compress", &path))?;
            self.encoder = Some((server, encoder));
        }
        let Some((_, encoder)) = &mut self.encoder else {
            return Ok(());
        };
        let output = &mut self.output;
        encoder.add(first_page, bytes, |frame| output.append_unchecked(frame))
    }

    /// Adds a frame, header and stored bytes, that a [`FrameEncoder`] made, perhaps on another
    /// machine. Checks all of it, and that it decompresses. Returns the header of the frame.
    ///
    /// # Errors
    /// When it is not a sound frame of this snapshot, is out of order, or cannot be written. The
    /// snapshot cannot be finished then.
    pub fn add_frame(&mut self, bytes: &[u8]) -> Result<FrameHeader, WriteError> {
        self.flush()?;
        let checked = Frame::parse(bytes, &self.output.header)
            .and_then(|frame| self.decoder.decode(&frame).map(|_| *frame.header()));
        match checked {
            Ok(header) => self.output.append(&header, bytes).map(|()| header),
            Err(source) => {
                self.output.broken = true;
                Err(WriteError::Frame {
                    server: unchecked_server(bytes),
                    source,
                })
            }
        }
    }

    /// Writes the index and the footer, makes the file durable, and gives it its name.
    ///
    /// # Errors
    /// When anything of it could not be written, or another process took the name. No file has the
    /// name of the snapshot then.
    pub fn finish(mut self) -> Result<Written, WriteError> {
        self.flush()?;
        if self.output.broken {
            return Err(WriteError::Broken(self.destination.path(self.name)));
        }
        let frames = self.output.write_end()?;
        let (raw_bytes, file_bytes) = (self.output.raw_bytes, self.output.offset);
        let path = self.output.file.get_ref().path().to_owned();
        let unwritten = |error: io::IntoInnerError<_>| {
            WriteError::system("cannot write", &path)(error.into_error())
        };
        let mut partial = self.output.file.into_inner().map_err(unwritten)?;
        partial.sync()?;
        loop {
            let path = self.destination.path(self.name);
            if partial.publish(&path)? {
                return Ok(Written {
                    path,
                    frames,
                    raw_bytes,
                    file_bytes,
                });
            }
            self.name = self
                .destination
                .after(self.name)
                .ok_or(WriteError::Exists(path))?;
        }
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        let output = &mut self.output;
        match &mut self.encoder {
            Some((_, encoder)) => encoder.flush(|frame| output.append_unchecked(frame)),
            None => Ok(()),
        }
    }
}

impl Destination {
    fn path(&self, name: FileName) -> PathBuf {
        match self {
            Self::Directory(directory) => directory.join(name.to_string()),
            Self::File(path) => path.clone(),
        }
    }

    /// The directory of the file and of its partial file.
    pub(super) fn folder(&self) -> &Path {
        match self {
            Self::Directory(directory) => directory,
            Self::File(path) => path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
                .unwrap_or(Path::new(".")),
        }
    }

    /// The next name to try when `name` is taken.
    fn after(&self, name: FileName) -> Option<FileName> {
        match self {
            Self::Directory(_) => name.next(),
            Self::File(_) => None,
        }
    }
}

impl FrameWriter {
    /// Appends a frame from the encoder of this process, without checking its bytes.
    fn append_unchecked(&mut self, frame: &[u8]) -> Result<(), WriteError> {
        let header = frame
            .first_chunk()
            .ok_or(FrameError::Length {
                expected: FRAME_HEADER,
                found: frame.len(),
            })
            .and_then(|head| FrameHeader::parse(head, &self.header))
            .map_err(|source| WriteError::Frame {
                server: unchecked_server(frame),
                source,
            })?;
        self.append(&header, frame)
    }

    #[allow(clippy::cast_possible_truncation)] // the lengths of a checked frame are at most MAX_FRAME
    fn append(&mut self, frame: &FrameHeader, bytes: &[u8]) -> Result<(), WriteError> {
        let (server, addresses) = (frame.server(), frame.addresses());
        let extents = &mut self.extents[server];
        let begin = self.header.addresses_of(server).start;
        let expected = extents
            .last()
            .map_or(begin, |extent| extent.addresses().end);
        if addresses.start < expected {
            self.broken = true;
            let expected = (expected - begin) / PAGE;
            return Err(WriteError::Order {
                server,
                page: frame.first_page(),
                expected,
            });
        }
        extents.push(FrameExtent {
            address: addresses.start,
            offset: self.offset,
            raw_length: frame.raw_length() as u32,
            stored_length: frame.stored_length() as u32,
        });
        self.raw_bytes += frame.raw_length() as u64;
        self.write(bytes)
    }

    /// Writes the index and the footer; returns the number of frames.
    fn write_end(&mut self) -> Result<u64, WriteError> {
        let (index, mut count, mut checksum) = (self.offset, 0, 0);
        for extents in std::mem::take(&mut self.extents) {
            for extent in extents {
                let entry = extent.encode();
                checksum = crc32c::crc32c_append(checksum, &entry);
                count += 1;
                self.write(&entry)?;
            }
        }
        let mut footer = Footer::encode(index, count, checksum);
        let (hashed, rest) = footer.split_at_mut(FOOTER_HASHED);
        self.write(hashed)?;
        let hash = self.hasher.finalize();
        rest[..hash.as_bytes().len()].copy_from_slice(hash.as_bytes());
        self.write(rest)?;
        Ok(count)
    }

    fn flush(&mut self) -> Result<(), WriteError> {
        let flushed = self.file.flush();
        flushed.map_err(|source| {
            WriteError::system("cannot write", self.file.get_ref().path())(source)
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        let written = self.file.write_all(bytes);
        if let Err(source) = written {
            self.broken = true;
            return Err(WriteError::system(
                "cannot write",
                self.file.get_ref().path(),
            )(source));
        }
        self.hasher.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

/// The server in the header of a frame that was not checked, for an error message.
fn unchecked_server(frame: &[u8]) -> usize {
    frame
        .first_chunk()
        .map_or(0, |server| u32::from_le_bytes(*server) as usize)
}
