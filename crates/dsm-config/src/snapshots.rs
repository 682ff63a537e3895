//! How snapshots are compressed, and which of them are kept.

/// How the pages of a snapshot are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// They are not compressed.
    None,
    /// With zstd.
    Zstd(CompressionLevel),
}

impl Compression {
    /// The level of zstd; none when the pages are not compressed.
    #[must_use]
    pub fn level(self) -> Option<CompressionLevel> {
        match self {
            Self::None => None,
            Self::Zstd(level) => Some(level),
        }
    }
}

/// A level of zstd, from [`CompressionLevel::LOWEST`] to [`CompressionLevel::HIGHEST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressionLevel(i32);

impl CompressionLevel {
    /// The fastest level.
    pub const LOWEST: i32 = 1;

    /// The level with the smallest files. Higher ones take much memory, and frames of a snapshot
    /// gain nothing.
    pub const HIGHEST: i32 = 19;

    /// The level with this number; `None` when it is not in the range.
    #[must_use]
    pub fn new(number: i32) -> Option<Self> {
        (Self::LOWEST..=Self::HIGHEST)
            .contains(&number)
            .then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }
}

/// Which snapshots are kept. The default keeps the newest good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RetentionPolicy {
    /// This many of the newest ones. The newest good one is kept even when this is 0.
    pub newest: usize,
    /// The last one of each day (UTC), for this many of the newest days that have a good snapshot.
    pub daily: usize,
    /// The last one of each week from Monday (UTC), for this many of the newest weeks that have
    /// one.
    pub weekly: usize,
    /// For this many days, the last one of each memory that was lost or replaced after it.
    pub lost: usize,
}
