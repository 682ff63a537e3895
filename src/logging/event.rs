//! Events that have an explanation in the journal's catalog, which `journalctl -x` shows.

/// What a message is about. Used as the field `MESSAGE_ID`, which only the journal keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A server is ready.
    Ready,
    /// A server found no memory and begins with zeros.
    MemoryLost,
    /// A server found no memory and waits until an administrator restores a snapshot or accepts
    /// zeros.
    MemoryWaits,
    /// A server had its lost memory restored from a snapshot, or could not.
    Recovery,
    /// A snapshot or zeros have replaced the memory.
    MemoryReplaced,
    /// Another program removed a file of the memory from /dev/shm while it is served.
    NameRemoved,
    /// The writes of a dead process were completed or undone, and its locks were released.
    Repaired,
    /// A snapshot was written.
    SnapshotWritten,
    /// A snapshot was not written.
    SnapshotFailed,
    /// A client or a snapshot peer has another mcomp.cfg.
    LayoutMismatch,
    /// A limit of mcomp.cfg is reached.
    LimitReached,
    /// The operation log loses lines.
    OperationLogLosing,
    /// A new mcomp.cfg was refused.
    ReloadRefused,
    /// The object with the segment's name fits neither mcomp.cfg nor this release.
    SegmentMismatch,
}

impl Event {
    /// The name of the field.
    pub(crate) const FIELD: &str = "MESSAGE_ID";

    /// Its id in the catalog, `packaging/systemd/dsm.catalog`.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Ready => "fdf13566a6e6426e958efa0bd8ef3365",
            Self::MemoryLost => "ea91f62b0d174c18ae0949208d72091c",
            Self::MemoryWaits => "8385254ea8c848d18770d90a977e29e2",
            Self::Recovery => "7f4c160cd300498ea855c8bbc9d1a8b5",
            Self::MemoryReplaced => "48bcd29ffb794153bff3dc84a0af4478",
            Self::NameRemoved => "1573bed0626b433aa6095b3389cdcc59",
            Self::Repaired => "13c0e4dcc51044a68c8bc7059d1bd5ac",
            Self::SnapshotWritten => "9e6e3cd32a2f4f9ebf71a192633962cf",
            Self::SnapshotFailed => "c521baed1c7b41928b2c5c7790fd4b08",
            Self::LayoutMismatch => "818774db90b941fa9db6d02240211af2",
            Self::LimitReached => "f0f61ac62a97429fbf941853177907f8",
            Self::OperationLogLosing => "a6a74377e2b44600a9e5d2397b4cabcc",
            Self::ReloadRefused => "a42ec8c87f8b4f1f9cab6969ea615684",
            Self::SegmentMismatch => "67889572537a4905b241a1901cf1c87f",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Event;
    use std::collections::BTreeSet;

    #[test]
    fn the_catalog_explains_every_event_and_nothing_else() {
        let all = [
            Event::Ready,
            Event::MemoryLost,
            Event::MemoryWaits,
            Event::Recovery,
            Event::MemoryReplaced,
            Event::NameRemoved,
            Event::Repaired,
            Event::SnapshotWritten,
            Event::SnapshotFailed,
            Event::LayoutMismatch,
            Event::LimitReached,
            Event::OperationLogLosing,
            Event::ReloadRefused,
            Event::SegmentMismatch,
        ];
        let catalog = include_str!("../../packaging/systemd/dsm.catalog");
        let explained: Vec<&str> = catalog
            .lines()
            .filter_map(|line| line.strip_prefix("-- "))
            .collect();
        let ids: BTreeSet<&str> = all.iter().map(|event| event.id()).collect();
        assert_eq!(explained.iter().copied().collect::<BTreeSet<_>>(), ids);
        assert_eq!(explained.len(), all.len(), "an id appears twice");
    }
}
