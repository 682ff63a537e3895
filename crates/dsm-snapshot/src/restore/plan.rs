//! The plan of a restore: which addresses it replaces, and which of them the snapshot contains.

use super::RestoreError;
use crate::SnapshotFile;
use dsm_config::Config;
use std::ops::Range;

/// Which addresses a restore replaces, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePlan {
    /// The addresses of the live memory that are replaced.
    pub addresses: Range<u64>,
    /// Those of them that the snapshot contains. The restore sets the others to zeros.
    pub from_snapshot: Range<u64>,
}

impl RestorePlan {
    /// Plans to restore all of the snapshot into the memory of `config`, or only `range` (address
    /// and length) of it.
    ///
    /// # Errors
    /// When the snapshot does not fit into the memory, or lacks a part of the range.
    pub fn new(
        config: &Config,
        file: &SnapshotFile,
        range: Option<(u64, u64)>,
    ) -> Result<Self, RestoreError> {
        let (layout, header) = (&config.layout, file.header());
        if let Some((address, length)) = range {
            drop(layout.pieces(address, length)?);
            file.check_range(address, length)?;
            let addresses = address..address + length;
            return Ok(Self {
                from_snapshot: addresses.clone(),
                addresses,
            });
        }
        let missing: Vec<usize> = (0..header.layout().server_count())
            .filter(|server| !header.has(*server))
            .collect();
        if !missing.is_empty() {
            return Err(RestoreError::Partial(missing));
        }
        let (snapshot, memory) = (header.layout().size(), layout.size());
        if snapshot > memory {
            return Err(RestoreError::TooLarge { snapshot, memory });
        }
        Ok(Self {
            addresses: 0..memory,
            from_snapshot: 0..snapshot,
        })
    }

    /// The parts of the plan by server: the server's index, and the addresses of its part.
    pub(super) fn parts(&self, config: &Config) -> Result<Vec<(usize, Range<u64>)>, RestoreError> {
        let pieces = config.layout.pieces(
            self.addresses.start,
            self.addresses.end - self.addresses.start,
        )?;
        Ok(pieces
            .map(|piece| (piece.server, piece.address..piece.address + piece.length))
            .collect())
    }
}
