//! Segments without a server around them.

use dsm_core::layout::Layout;
use dsm_core::segment::{CUT_RUN, Cut, CutGone, CutPages, Segment, Start};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, Ordering};

/// A system's name of its own, whose objects in shared memory go with it.
pub struct Name(pub String);

impl Name {
    pub fn new(what: &str) -> Self {
        // Tests of other modules may call theirs the same.
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(format!("dsmtest-{}-{number}-{what}", std::process::id()))
    }

    /// The only segment of the system, of `k` bytes.
    pub fn serve(&self, k: u64) -> Segment {
        serve(&self.0, k, Start::Serve)
    }
}

impl Drop for Name {
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

/// All of a cut; each page can be read once.
pub fn image(segment: &Segment, cut: Cut) -> Result<Vec<u8>, CutGone> {
    let mut image = vec![0; usize::try_from(segment.k()).unwrap()];
    for (run, bytes) in image.chunks_mut(CUT_RUN * 4096).enumerate() {
        let first = run * CUT_RUN;
        if segment.read_cut(cut, first..first + bytes.len() / 4096, bytes)? == CutPages::Zeros {
            assert!(bytes.iter().all(|byte| *byte == 0));
        }
    }
    Ok(image)
}

/// One server with `k` bytes.
pub fn layout(name: &str, k: u64) -> Layout {
    Layout::new(name, k, vec!["127.0.0.1:7411".to_owned()]).unwrap()
}

/// Opens or makes the segment as its server.
pub fn serve(name: &str, k: u64, start: Start) -> Segment {
    Segment::serve(&layout(name, k), 0, start, &mut |_, _| {
        ControlFlow::Continue(())
    })
    .unwrap()
    .segment
}

/// Opens it as another participant.
pub fn attach(name: &str, k: u64) -> Segment {
    Segment::attach(&layout(name, k), 0).unwrap()
}
