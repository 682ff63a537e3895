//! Segments without a server around them.

#![allow(clippy::unwrap_used)]

use dsm::layout::Layout;
use dsm::segment::{Segment, Start};
use std::ops::ControlFlow;

/// A system's name of its own, whose objects in shared memory go with it.
pub struct Name(pub String);

impl Name {
    pub fn new(what: &str) -> Self {
        Self(format!("dsmtest-{}-{what}", std::process::id()))
    }

    /// The only segment of the system, of `k` bytes.
    pub fn serve(&self, k: u64) -> Segment {
        serve(&self.0, k, Start::Serve)
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        for entry in std::fs::read_dir("/dev/shm").unwrap().flatten() {
            if entry.file_name().to_string_lossy().contains(&format!("{}.", self.0)) {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

/// One server with `k` bytes.
pub fn layout(name: &str, k: u64) -> Layout {
    Layout::new(name, k, vec!["127.0.0.1:7411".to_owned()]).unwrap()
}

/// Opens or makes the segment as its server.
pub fn serve(name: &str, k: u64, start: Start) -> Segment {
    Segment::serve(&layout(name, k), 0, start, &mut |_, _| ControlFlow::Continue(())).unwrap().segment
}

/// Opens it as another participant.
pub fn attach(name: &str, k: u64) -> Segment {
    Segment::attach(&layout(name, k), 0).unwrap()
}
