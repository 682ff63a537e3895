//! A snapshot file has any bytes. The reader does not panic, its memory is bounded, and it can read
//! a valid file from start to end.

use dsm_config::{Compression, CompressionLevel};
use dsm_core::layout::{Layout, PAGE};
use dsm_snapshot::{
    Destination, FRAME_HEADER, Frame, FrameBuffer, Header, HeaderFields, SnapshotFile,
    SnapshotWriter,
};
use std::path::{Path, PathBuf};

/// Bytes that are read at once where a file has memory.
const AT_ONCE: u64 = 1 << 16;

/// Frames whose checksums are corrected. Bounds the time of one input.
const MAX_CORRECTED: usize = 16;

/// Bytes of the footer, and of an entry of the index: see docs/snapshot-format.md.
const FOOTER: usize = 64;
const ENTRY: usize = 24;

/// Tests one input as the bytes of the file, and again with correct checksums: a fuzzer does not
/// find a checksum that matches its changes, and would only test that the reader refuses them.
///
/// # Panics
/// When the reader breaks a promise.
pub fn run(bytes: &[u8]) {
    check(bytes);
    if let Some(bytes) = with_checksums(bytes) {
        check(&bytes);
    }
}

fn check(bytes: &[u8]) {
    if let Ok((header, length)) = Header::parse(bytes) {
        assert_eq!(
            header.encode(),
            bytes[..length],
            "encoding a parsed header gives other bytes"
        );
        let _ = Frame::parse(&bytes[length..], &header);
    }
    let Ok(file) = SnapshotFile::from_source(Path::new("fuzzed"), bytes) else {
        return;
    };
    let verified = file.verify(|_, _| {});
    let mut buffer = FrameBuffer::new().expect("memory for a decompressor");
    let mut end = 0;
    for extent in file.extents(0..u64::MAX).expect("a checked index") {
        let extent = extent.expect("a checked index");
        let addresses = extent.addresses();
        assert!(addresses.start >= end && addresses.end <= file.header().layout().size());
        end = addresses.end;
        let read = file.read_frame(&extent, &mut buffer).map(<[u8]>::len);
        assert!(
            read.is_ok() || verified.is_err(),
            "verify accepts a frame that cannot be read: {read:?}"
        );
        assert!(
            read.is_err() || read.ok() == usize::try_from(addresses.end - addresses.start).ok()
        );
    }
    let size = file.header().layout().size();
    for address in [0, size / 2, size - size.min(AT_ONCE)] {
        let length = usize::try_from(AT_ONCE.min(size - address)).expect("small");
        let read = file.read_range(address, &mut vec![0xa5; length]);
        assert!(
            read.is_ok() || verified.is_err() || file.header().is_partial(),
            "{read:?}"
        );
    }
    assert!(file.read_range(size, &mut [0]).is_err());
}

/// A copy of the file with correct checksums of the header, the first frames and the index. `None`
/// if there are no bytes where the file says that the header or the index is.
fn with_checksums(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let header = number::<4>(&bytes, 12)?;
    let sum = crc32c(bytes.get(..header.checked_sub(4)?)?);
    put(&mut bytes, header - 4, sum)?;
    let footer = bytes.len().checked_sub(FOOTER)?;
    let index = number::<8>(&bytes, footer)?;
    for entry in (index..footer).step_by(ENTRY).take(MAX_CORRECTED) {
        // An entry that points outside of the file is a case for the reader.
        let _ = correct_frame(&mut bytes, entry);
    }
    let sum = crc32c(bytes.get(index..footer)?);
    put(&mut bytes, footer + 16, sum)?;
    Some(bytes)
}

/// Corrects the checksum of the frame that the entry of the index at `entry` points to.
fn correct_frame(bytes: &mut [u8], entry: usize) -> Option<()> {
    let frame = number::<8>(bytes, entry + 8)?;
    let stored = number::<4>(bytes, entry + 20)?;
    let head = frame.checked_add(FRAME_HEADER)?;
    let fields = bytes.get(frame..head - 4)?;
    let data = bytes.get(head..head.checked_add(stored)?)?;
    let sum = crc32c(&[fields, data].concat());
    put(bytes, head - 4, sum)
}

/// The little-endian number of `N` bytes at `at`.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<usize> {
    let mut word = [0; 8];
    word[..N].copy_from_slice(bytes.get(at..)?.first_chunk::<N>()?);
    usize::try_from(u64::from_le_bytes(word)).ok()
}

fn put(bytes: &mut [u8], at: usize, sum: u32) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = sum.to_le_bytes();
    Some(())
}

/// CRC-32C, bit by bit: slow, and independent of the code under test.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| (sum >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(sum & 1));
    let add = |sum: u32, byte: &u8| (0..8).fold(sum ^ u32::from(*byte), step);
    !bytes.iter().fold(!0, add)
}

/// Writes [`write_seed`]'s file into the corpus, the first folder among the arguments of this
/// program. Without a valid file to begin with, a fuzzer hardly gets beyond the header's checksum.
///
/// # Panics
/// When the file cannot be written.
pub fn seed_corpus() {
    let mut folders = std::env::args_os()
        .skip(1)
        .map(PathBuf::from)
        .filter(|path| path.is_dir());
    let Some(corpus) = folders.next() else { return };
    let path = corpus.join("seed");
    if !path.exists() {
        write_seed(path);
    }
}

/// Writes a snapshot file of a few hundred bytes: two servers of four pages, of which some are
/// missing as zeros, in three compressed frames.
///
/// # Panics
/// When the file cannot be written.
pub fn write_seed(path: PathBuf) {
    const SERVERS: [&str; 2] = ["a:1", "b:2"];
    let page = vec![7; usize::try_from(PAGE).expect("4096")];
    let layout = Layout::new("s", 4 * PAGE, SERVERS.map(str::to_owned).to_vec());
    let layout = layout.expect("a valid layout");
    let mut fields = HeaderFields::new(layout, 1, &[1, 2], Some(0)).expect("random bytes");
    fields.id = [9; 16];
    let header = Header::new(fields).expect("a valid header");
    let level = CompressionLevel::new(3).expect("a level of zstd");
    let destination = Destination::File(path);
    let writer = SnapshotWriter::create(destination, header, Compression::Zstd(level));
    let mut writer = writer.expect("a new file");
    for (server, first_page) in [(0, 0), (0, 2), (1, 3)] {
        writer
            .add_pages(server, first_page, &page)
            .expect("pages in order");
    }
    writer.finish().expect("a written file");
}
