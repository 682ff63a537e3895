//! Snapshots of made-up memories, for tests of the file.
// Helpers of tests may unwrap as tests do.
#![allow(clippy::unwrap_used)]

use super::random::Random;
use dsm::layout::{Layout, PAGE};
use dsm::snapshot::{Compression, Destination, Header, HeaderFields, Level, SnapshotWriter};
use std::path::{Path, PathBuf};

/// A cut time: 2026-11-23 04:00:00 UTC.
pub const CUT_TIME: u64 = 1_795_406_400_000_000_000;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;

/// zstd at its default level.
pub fn zstd() -> Compression {
    Compression::Zstd(Level::new(3).unwrap())
}

/// The fields of a header for `incarnations.len()` servers of `pages` pages each.
pub fn fields(pages: usize, incarnations: &[u64]) -> HeaderFields {
    let addresses = (0..incarnations.len()).map(|i| format!("10.0.0.{}:7411", i + 1)).collect();
    let layout = Layout::new("test", pages as u64 * PAGE, addresses).unwrap();
    let mut fields = HeaderFields::new(layout, CUT_TIME, incarnations, Some(0)).unwrap();
    fields.servers.iter_mut().enumerate().for_each(|(i, server)| server.hostname = format!("host-{i}"));
    fields
}

/// A sound header; see [`fields`].
pub fn header(pages: usize, incarnations: &[u64]) -> Header {
    Header::new(fields(pages, incarnations)).unwrap()
}

/// A memory with runs of zeros, of text that compresses, and of noise that does not.
pub fn memory(random: &mut Random, pages: usize) -> Vec<u8> {
    let mut memory = vec![0; pages * PAGE_BYTES];
    let mut page = 0;
    while page < pages {
        let run = (1 + random.index(12)).min(pages - page);
        let bytes = &mut memory[page * PAGE_BYTES..(page + run) * PAGE_BYTES];
        match random.index(3) {
            0 => {}
            1 => bytes.chunks_mut(16).zip(0_u64..).for_each(|(chunk, line)| {
                chunk.copy_from_slice(format!("line {line:>10}\n").as_bytes());
            }),
            _ => bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&random.next().to_le_bytes())),
        }
        page += run;
    }
    memory
}

/// Writes `memory` as a snapshot into `directory`; what servers hold that are missing from `header` is left out.
pub fn write(directory: &Path, header: &Header, memory: &[u8], compression: Compression) -> PathBuf {
    let destination = Destination::Directory(directory.to_owned());
    let mut writer = SnapshotWriter::create(destination, header.clone(), compression).unwrap();
    let k = usize::try_from(header.layout().k()).unwrap();
    for (server, segment) in memory.chunks(k).enumerate().filter(|(server, _)| header.has(*server)) {
        for (chunk, bytes) in (0_u64..).zip(segment.chunks(7 * PAGE_BYTES)) {
            writer.add_pages(server, chunk * 7, bytes).unwrap();
        }
    }
    writer.finish().unwrap().path
}

/// The names in a directory, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
