//! Verifies a whole file in one pass from its first byte to its last: it is what the writer wrote,
//! or an error names the first damage.

use super::error::ReadError;
use super::format::{FOOTER_HASHED, FRAME_HEADER};
use super::frame::{Frame, FrameDecoder, FrameHeader};
use super::index::FrameExtent;
use super::reader::{SnapshotFile, SnapshotSource};

/// Bytes that are read at a time outside of frames.
const CHUNK: usize = 1 << 16;

/// What a file that was verified contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The number of frames.
    pub frames: u64,
    /// Bytes of memory that the frames cover; all other bytes were zeros.
    pub raw_bytes: u64,
    /// Bytes of the frames' data in the file.
    pub stored_bytes: u64,
    /// The length of the file in bytes.
    pub file_bytes: u64,
}

impl<S: SnapshotSource> SnapshotFile<S> {
    /// Reads all of the file and checks every byte of it: the checksum of each frame, that each
    /// frame decompresses, that index and frames agree, and the hash of the whole file. Calls
    /// `progress` with the bytes that are done and the length of the file. Uses the memory of two
    /// frames.
    ///
    /// # Errors
    /// The first damage that was found; for a frame its offset and the addresses that it covers.
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
                let reason = "its addresses are not the ones in the index";
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

    /// Reads the frame at `offset`. The inner error says what is wrong with its header.
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
            return Ok(Err(
                "its header gives a length that reaches past the last frame".to_owned(),
            ));
        }
        bytes.resize(length, 0);
        self.read_at(bytes, offset)?;
        Ok(Ok(header))
    }

    /// The error for a damaged frame, with the addresses that the index gives for its offset.
    fn name_bad_frame(&self, offset: u64, reason: &str) -> Result<ReadError, ReadError> {
        for extent in self.extents(0..u64::MAX)? {
            let extent: FrameExtent = extent?;
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
