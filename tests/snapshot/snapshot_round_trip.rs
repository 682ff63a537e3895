//! A snapshot file returns the bytes that were written into it: all of them, any range, from frames
//! of the writer or of agents.

// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use dsm_config::Compression;
use dsm_snapshot::{
    Destination, FrameBuffer, FrameEncoder, FrameHeader, Header, ReadError, SnapshotFile,
    SnapshotWriter, WriteError,
};
use proptest::prelude::*;
use std::path::Path;
use support::random::Random;
use support::snapshots::{CUT_TIME, PAGE_BYTES, fields, header, memory, names, write, zstd};

/// The memory in a file, read frame by frame.
fn export(file: &SnapshotFile) -> Vec<u8> {
    let mut memory = vec![0; usize::try_from(file.header().layout().size()).unwrap()];
    let mut buffer = FrameBuffer::new().unwrap();
    for extent in file.extents(0..u64::MAX).unwrap() {
        let extent = extent.unwrap();
        let addresses = extent.addresses();
        let place =
            usize::try_from(addresses.start).unwrap()..usize::try_from(addresses.end).unwrap();
        memory[place].copy_from_slice(file.read_frame(&extent, &mut buffer).unwrap());
    }
    memory
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_memory_and_any_range_of_it_are_read_as_written(
        pages in 1_usize..80, n in 1_usize..4, frame_pages in 1_u32..20, compressed in any::<bool>(),
        ranges in proptest::collection::vec((any::<usize>(), any::<usize>()), 20), seed in any::<u64>(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut random = Random::seeded(seed);
        let mut fields = fields(pages, &vec![7; n]);
        fields.frame_size = frame_pages * 4096;
        let (header, memory) = (Header::new(fields).unwrap(), memory(&mut random, pages * n));
        let compression = if compressed { zstd() } else { Compression::None };
        let file = SnapshotFile::open(&write(directory.path(), &header, &memory, compression)).unwrap();
        prop_assert_eq!(file.header(), &header);
        prop_assert!(export(&file) == memory);
        for (a, b) in ranges {
            let address = a % (memory.len() + 1);
            let length = b % (memory.len() - address + 1);
            let mut bytes = vec![0xa5; length];
            file.read_range(address as u64, &mut bytes).unwrap();
            prop_assert!(bytes == memory[address..address + length], "{} {}", address, length);
        }
        let summary = file.verify(|_, _| {}).unwrap();
        let nonzero = memory.chunks(PAGE_BYTES).filter(|page| page.iter().any(|byte| *byte != 0)).count();
        prop_assert_eq!(summary.raw_bytes, (nonzero * PAGE_BYTES) as u64);
        prop_assert_eq!(summary.frames, file.frames());
    }
}

#[test]
fn a_memory_of_zeros_takes_a_header_and_a_footer() {
    let directory = tempfile::tempdir().unwrap();
    let header = header(1 << 10, &[1, 2]);
    let path = write(directory.path(), &header, &vec![0; 2 << 22], zstd());
    assert_eq!(
        path.metadata().unwrap().len(),
        header.encode().len() as u64 + 64
    );
    let file = SnapshotFile::open(&path).unwrap();
    let mut bytes = vec![1; 10_000];
    file.read_range((1 << 22) - 5000, &mut bytes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    assert_eq!(file.verify(|_, _| {}).unwrap().frames, 0);
}

#[test]
fn a_partial_snapshot_names_the_server_that_it_lacks() {
    let directory = tempfile::tempdir().unwrap();
    let memory = memory(&mut Random::new("partial"), 96);
    let path = write(directory.path(), &header(32, &[5, 0, 6]), &memory, zstd());
    let file = SnapshotFile::open(&path).unwrap();
    assert!(file.header().is_partial());
    let k = 32 * PAGE_BYTES;
    for start in [0, 2 * k] {
        let mut bytes = vec![0; k];
        file.read_range(start as u64, &mut bytes).unwrap();
        assert!(bytes == memory[start..start + k]);
    }
    let error = file.read_range(k as u64 - 1, &mut [0; 2]).unwrap_err();
    assert!(
        matches!(error, ReadError::Missing { server: 1, .. }),
        "{error}"
    );
    let error = file.read_range(3 * k as u64, &mut [0]).unwrap_err();
    assert!(matches!(error, ReadError::Outside(_)), "{error}");
    file.verify(|_, _| {}).unwrap();
}

fn writer(directory: &Path, header: &Header) -> SnapshotWriter {
    SnapshotWriter::create(
        Destination::Directory(directory.to_owned()),
        header.clone(),
        zstd(),
    )
    .unwrap()
}

/// The frames that an agent makes of a segment.
fn frames(server: usize, header: &Header, segment: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut encoder = FrameEncoder::new(server, header, zstd()).unwrap();
    let mut emit = |frame: &[u8]| -> Result<(), std::convert::Infallible> {
        frames.push(frame.to_vec());
        Ok(())
    };
    encoder.add(0, segment, &mut emit).unwrap();
    encoder.flush(&mut emit).unwrap();
    frames
}

#[test]
fn frames_of_agents_are_accepted_in_any_order_of_servers() {
    let directory = tempfile::tempdir().unwrap();
    let (header, memory) = (
        header(512, &[1, 2, 3]),
        memory(&mut Random::new("agents"), 3 * 512),
    );
    let mut sent: Vec<_> = memory
        .chunks(512 * PAGE_BYTES)
        .enumerate()
        .map(|(server, segment)| frames(server, &header, segment).into_iter())
        .collect();
    let mut writer = writer(directory.path(), &header);
    let mut left = true;
    while left {
        left = false;
        for frames in sent.iter_mut().rev() {
            if let Some(frame) = frames.next() {
                left = true;
                // A master reads the header first, then as many bytes as the header says.
                let head = FrameHeader::parse(frame.first_chunk().unwrap(), &header).unwrap();
                assert_eq!(head.stored_length() + 32, frame.len());
                writer.add_frame(&frame).unwrap();
            }
        }
    }
    let written = writer.finish().unwrap();
    let file = SnapshotFile::open(&written.path).unwrap();
    assert!(export(&file) == memory);
    assert_eq!(file.verify(|_, _| {}).unwrap().frames, written.frames);
}

#[test]
fn a_frame_that_is_not_valid_ends_the_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let header = header(64, &[1, 0]);
    let text = vec![b'x'; 64 * PAGE_BYTES];
    let good = frames(0, &header, &text).remove(0);
    let mut refused: Vec<(&str, Vec<u8>)> = Vec::new();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    refused.push(("a flipped bit", flipped));
    refused.push(("a byte too many", [&good[..], &[0]].concat()));
    refused.push(("cut short", good[..good.len() - 1].to_vec()));
    refused.push(("only a header", good[..32].to_vec()));
    refused.push(("nothing", vec![]));
    refused.push((
        "a server that is missing",
        frames(1, &header, &text).remove(0),
    ));
    refused.push((
        "a server that is not in the map",
        frames(2, &header, &text).remove(0),
    ));
    for (what, frame) in refused {
        let mut writer = writer(directory.path(), &header);
        let error = writer.add_frame(&frame).unwrap_err();
        assert!(matches!(error, WriteError::Frame { .. }), "{what}: {error}");
        assert!(
            matches!(writer.finish().unwrap_err(), WriteError::Broken(_)),
            "{what}"
        );
        assert_eq!(names(directory.path()), [""; 0], "{what}");
    }
    let mut twice = writer(directory.path(), &header);
    twice.add_frame(&good).unwrap();
    assert!(matches!(
        twice.add_frame(&good).unwrap_err(),
        WriteError::Order {
            server: 0,
            page: 0,
            expected: 64
        }
    ));
    drop(twice);
    let mut outside = writer(directory.path(), &header);
    for (server, page, length) in [
        (0, 64, 4096),
        (0, 63, 8192),
        (0, u64::MAX, 4096),
        (0, 0, 100),
        (1, 0, 4096),
    ] {
        let error = outside
            .add_pages(server, page, &text[..length])
            .unwrap_err();
        assert!(matches!(error, WriteError::NotPages { .. }), "{error}");
    }
}

#[test]
fn a_snapshot_never_overwrites_a_file_and_two_of_one_second_have_two_names() {
    let directory = tempfile::tempdir().unwrap();
    let (header, memory) = (header(8, &[1]), vec![1; 8 * PAGE_BYTES]);
    assert_eq!(header.cut_time(), CUT_TIME);
    let first = writer(directory.path(), &header);
    let error = SnapshotWriter::create(
        Destination::Directory(directory.path().into()),
        header.clone(),
        zstd(),
    );
    assert!(matches!(error.err().unwrap(), WriteError::UnderWay(_)));
    // Another process takes the name after the writer has begun.
    std::fs::write(directory.path().join("dsm-20261123T040000Z.dsnap"), "mine").unwrap();
    first.finish().unwrap();
    write(directory.path(), &header, &memory, zstd());
    let mut expected = [
        "dsm-20261123T040000Z-2.dsnap",
        "dsm-20261123T040000Z-3.dsnap",
        "dsm-20261123T040000Z.dsnap",
    ];
    expected.sort_unstable();
    assert_eq!(names(directory.path()), expected);
    assert_eq!(
        std::fs::read(directory.path().join(expected[2])).unwrap(),
        b"mine"
    );
    let exact = Destination::File(directory.path().join(expected[2]));
    let error = SnapshotWriter::create(exact, header, zstd()).err().unwrap();
    assert!(matches!(error, WriteError::Exists(_)), "{error}");
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = writer(directory.path(), &header(64, &[1]));
    writer.add_pages(0, 0, &vec![9; 64 * PAGE_BYTES]).unwrap();
    assert_eq!(
        names(directory.path()),
        ["dsm-20261123T040000Z.dsnap.partial"]
    );
    drop(writer);
    assert_eq!(names(directory.path()), [""; 0]);
}
