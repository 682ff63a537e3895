//! A memory of one segment, for the tests of this module.

use super::{Segment, Start};
use crate::layout::{Layout, PAGE};
use std::ops::ControlFlow;

/// Bytes of the segment.
pub(super) const K: u64 = 8 * PAGE;

/// A memory with a unique name. Dropping it removes its objects.
pub(super) struct UnitTestMemory(Layout);

impl UnitTestMemory {
    pub(super) fn new(what: &str) -> Self {
        let name = format!("dsmtest-{}-{what}", std::process::id());
        Self(Layout::new(&name, K, vec!["127.0.0.1:1".into()]).unwrap())
    }

    pub(super) fn serve(&self) -> Segment {
        Segment::serve(&self.0, 0, Start::Serve, &mut |_, _| {
            ControlFlow::Continue(())
        })
        .unwrap()
        .segment
    }
}

impl Drop for UnitTestMemory {
    fn drop(&mut self) {
        for entry in std::fs::read_dir("/dev/shm").unwrap().flatten() {
            if entry
                .file_name()
                .to_string_lossy()
                .contains(&format!("{}.", self.0.name()))
            {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}
