//! Segments without a server process.

use dsm_core::layout::Layout;
use dsm_core::segment::{CUT_RUN, Cut, CutEnded, CutPages, Segment, Start};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, Ordering};

/// A unique name of a memory. Dropping it removes the shared-memory objects of that name.
pub struct TestMemoryName(pub String);

impl TestMemoryName {
    pub fn new(what: &str) -> Self {
        // Tests of other modules may pass the same text.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(format!("dsmtest-{}-{number}-{what}", std::process::id()))
    }

    /// Creates or opens the only segment of the memory, of `k` bytes, as its server.
    pub fn serve(&self, k: u64) -> Segment {
        serve(&self.0, k, Start::Serve)
    }
}

impl Drop for TestMemoryName {
    fn drop(&mut self) {
        for entry in std::fs::read_dir("/dev/shm").unwrap().flatten() {
            if entry
                .file_name()
                .to_string_lossy()
                .contains(&format!("{}.", self.0))
            {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

/// The whole memory of a cut. Each page of a cut can be read only once.
pub fn image(segment: &Segment, cut: Cut) -> Result<Vec<u8>, CutEnded> {
    let mut image = vec![0; usize::try_from(segment.share_size()).unwrap()];
    for (run, bytes) in image.chunks_mut(CUT_RUN * 4096).enumerate() {
        let first = run * CUT_RUN;
        if segment.read_cut(cut, first..first + bytes.len() / 4096, bytes)? == CutPages::Zeros {
            assert!(bytes.iter().all(|byte| *byte == 0));
        }
    }
    Ok(image)
}

/// The layout of one server with `k` bytes.
pub fn layout(name: &str, k: u64) -> Layout {
    Layout::new(name, k, vec!["127.0.0.1:7411".to_owned()]).unwrap()
}

/// Creates or opens the segment as its server.
pub fn serve(name: &str, k: u64, start: Start) -> Segment {
    Segment::serve(&layout(name, k), 0, start, &mut |_, _| {
        ControlFlow::Continue(())
    })
    .unwrap()
    .segment
}

/// Opens the segment as another participant.
pub fn attach(name: &str, k: u64) -> Segment {
    Segment::attach(&layout(name, k), 0).unwrap()
}
