//! Snapshot files of generated memories, for tests of the file format.

use super::dsmctl::Run;
use super::random::Random;
use dsm_config::{Compression, CompressionLevel};
use dsm_core::layout::{Layout, PAGE};
use dsm_snapshot::{Destination, FRAME_HEADER, Header, HeaderFields, SnapshotFile, SnapshotWriter};
use std::path::{Path, PathBuf};

/// A cut time: 2026-11-23 04:00:00 UTC.
pub const CUT_TIME: u64 = 1_795_406_400_000_000_000;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;

/// zstd at its default level.
pub fn zstd() -> Compression {
    Compression::Zstd(CompressionLevel::new(3).unwrap())
}

/// The fields of a header for `incarnations.len()` servers of `pages` pages each.
pub fn fields(pages: usize, incarnations: &[u64]) -> HeaderFields {
    let addresses = (0..incarnations.len())
        .map(|i| format!("10.0.0.{}:7411", i + 1))
        .collect();
    let layout = Layout::new("test", pages as u64 * PAGE, addresses).unwrap();
    let mut fields = HeaderFields::new(layout, CUT_TIME, incarnations, Some(0)).unwrap();
    fields
        .servers
        .iter_mut()
        .enumerate()
        .for_each(|(i, server)| server.hostname = format!("host-{i}"));
    fields
}

/// A valid header; see [`fields`].
pub fn header(pages: usize, incarnations: &[u64]) -> Header {
    Header::new(fields(pages, incarnations)).unwrap()
}

/// A memory with runs of zeros, of compressible text, and of incompressible noise.
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
            _ => bytes
                .chunks_mut(8)
                .for_each(|chunk| chunk.copy_from_slice(&random.next().to_le_bytes())),
        }
        page += run;
    }
    memory
}

/// Writes `memory` as a snapshot into `directory`, without the segments of the servers that are
/// missing in `header`.
pub fn write(
    directory: &Path,
    header: &Header,
    memory: &[u8],
    compression: Compression,
) -> PathBuf {
    let destination = Destination::Directory(directory.to_owned());
    let mut writer = SnapshotWriter::create(destination, header.clone(), compression).unwrap();
    let k = usize::try_from(header.layout().share_size()).unwrap();
    for (server, segment) in memory
        .chunks(k)
        .enumerate()
        .filter(|(server, _)| header.has(*server))
    {
        for (chunk, bytes) in (0_u64..).zip(segment.chunks(7 * PAGE_BYTES)) {
            writer.add_pages(server, chunk * 7, bytes).unwrap();
        }
    }
    writer.finish().unwrap().path
}

/// A temporary folder with an mcomp.cfg. Its snapshot directory is `snapshots` in that folder.
pub struct Folder(tempfile::TempDir);

impl Folder {
    /// Creates a folder for the memory of [`header`] with two servers: 10.0.0.1 and 10.0.0.2.
    pub fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(folder.snapshots()).unwrap();
        let servers =
            "[[server]]\naddress = \"10.0.0.1:7411\"\n[[server]]\naddress = \"10.0.0.2:7411\"\n";
        let snapshot = format!(
            "[snapshot]\ndirectory = \"{}\"\n",
            folder.snapshots().display()
        );
        let text = format!("name = \"test\"\nk = 409600\nn = 2\n{servers}{snapshot}");
        std::fs::write(folder.path("mcomp.cfg"), text).unwrap();
        folder
    }

    /// The path of a file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The snapshot directory.
    pub fn snapshots(&self) -> PathBuf {
        self.path("snapshots")
    }

    /// Runs dsmctl in the folder.
    pub fn dsmctl(&self, line: &str) -> Run {
        super::dsmctl::run(self.0.path(), Path::new("mcomp.cfg"), line, b"")
    }

    /// Writes `memory` as the snapshot `name`.
    pub fn snapshot(&self, name: &str, header: &Header, memory: &[u8]) -> PathBuf {
        let directory = tempfile::tempdir_in(&self.0).unwrap();
        let path = self.path(name);
        std::fs::rename(write(directory.path(), header, memory, zstd()), &path).unwrap();
        path
    }
}

/// Changes one byte inside the frame that covers `address`. Returns the addresses of that frame.
pub fn damage(path: &Path, address: u64) -> std::ops::Range<u64> {
    let file = SnapshotFile::open(path).unwrap();
    let extent = file
        .extents(address..address + 1)
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    bytes[usize::try_from(extent.offset()).unwrap() + FRAME_HEADER + 1] ^= 1;
    std::fs::write(path, bytes).unwrap();
    extent.addresses()
}

/// The names in a directory, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
