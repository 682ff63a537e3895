//! Reads a whole file once, from its first byte to its last, and says whether it is what was
//! written.

use super::error::ReadError;
use super::format::{FOOTER_HASHED, FRAME_HEADER};
use super::frame::{Frame, FrameDecoder, FrameHeader};
use super::index::Extent;
use super::reader::{SnapshotFile, Source};

/// Bytes that are read together where there are no frames.
const CHUNK: usize = 1 << 16;

/// What a sound file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Frames.
    pub frames: u64,
    /// Bytes of memory that the frames cover; the rest was zeros.
    pub raw_bytes: u64,
    /// Bytes that the frames' data takes in the file.
    pub stored_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
}

impl<S: Source> SnapshotFile<S> {
    /// Reads all of the file and checks every byte of it: each frame's checksum, that it
    /// decompresses, that index and frames name each other, and the hash of the whole. `progress`
    /// is called with the bytes done and those of the file. Memory is bounded by two frames.
    ///
    /// # Errors
    /// The first thing that is wrong; for a frame its place and the addresses that it covers.
    pub fn verify(&self, mut progress: impl FnMut(u64, u64)) -> Result<Summary, ReadError> {
        let frames = self.footer.frames.clone();
        let mut summary = Summary {
            frames: 0,
            raw_bytes: 0,
            stored_bytes: 0,
            file_bytes: self.length,
        };
        let mut hasher = blake3::Hasher::new();
        self.hash(&mut hasher, 0, frames.start)?;
        let mut decoder = FrameDecoder::new()
            .map_err(ReadError::system("no memory to decompress", &self.path))?;
        let (mut bytes, mut offset) = (Vec::new(), frames.start);
        while offset < frames.end {
            let header = match self.read_frame_at(offset, &mut bytes) {
                Ok(Ok(header)) => header,
                Ok(Err(reason)) => return Err(self.name_bad_frame(offset, &reason)?),
                Err(error) => return Err(error),
            };
            let outcome = Frame::parse(&bytes, &self.header)
                .and_then(|frame| decoder.decode(&frame).map(|_| ()));
            if let Err(reason) = outcome {
                return Err(self.name_bad_frame(offset, &reason.to_string())?);
            }
            let found = self.extent_at(header.addresses().start)?;
            if !found.is_some_and(|extent| {
                extent.offset == offset && extent.addresses() == header.addresses()
            }) {
                let reason = "it says that it covers other addresses than the index says";
                return Err(self.name_bad_frame(offset, reason)?);
            }
            hasher.update(&bytes);
            offset += bytes.len() as u64;
            summary.frames += 1;
            summary.raw_bytes += header.raw_length() as u64;
            summary.stored_bytes += header.stored_length() as u64;
            progress(offset, self.length);
        }
        let hash_field = self.length - (super::format::FOOTER - FOOTER_HASHED) as u64;
        self.hash(&mut hasher, frames.end, hash_field)?;
        progress(self.length, self.length);
        if summary.frames != self.footer.count || *hasher.finalize().as_bytes() != self.footer.hash
        {
            return Err(ReadError::Hash {
                path: self.path.clone(),
            });
        }
        Ok(summary)
    }

    /// Reads the frame at a place of the file; inside, what is wrong with its header.
    fn read_frame_at(
        &self,
        offset: u64,
        bytes: &mut Vec<u8>,
    ) -> Result<Result<FrameHeader, String>, ReadError> {
        let left = self.footer.frames.end - offset;
        if left < FRAME_HEADER as u64 {
            return Ok(Err("the frames end inside its header".to_owned()));
        }
        let mut head = [0; FRAME_HEADER];
        self.read_at(&mut head, offset)?;
        let header = match FrameHeader::parse(&head, &self.header) {
            Ok(header) => header,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let length = FRAME_HEADER + header.stored_length();
        if length as u64 > left {
            return Ok(Err("it is longer than the file has room for".to_owned()));
        }
        bytes.resize(length, 0);
        self.read_at(bytes, offset)?;
        Ok(Ok(header))
    }

    /// The error for a bad frame, with the addresses that the index gives for its place.
    fn name_bad_frame(&self, offset: u64, reason: &str) -> Result<ReadError, ReadError> {
        for extent in self.extents(0..u64::MAX)? {
            let extent: Extent = extent?;
            if extent.offset == offset {
                return Ok(self.bad_frame(&extent, &reason));
            }
        }
        let what = format!("has no entry for the frame at byte {offset}");
        Ok(ReadError::Index {
            path: self.path.clone(),
            what,
        })
    }

    fn hash(&self, hasher: &mut blake3::Hasher, from: u64, to: u64) -> Result<(), ReadError> {
        let (mut buffer, mut at) = (vec![0; CHUNK], from);
        while at < to {
            let length = usize::try_from(to - at).unwrap_or(CHUNK).min(CHUNK);
            self.read_at(&mut buffer[..length], at)?;
            hasher.update(&buffer[..length]);
            at += length as u64;
        }
        Ok(())
    }
}
