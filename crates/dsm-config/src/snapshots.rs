//! What mcomp.cfg says of snapshots: how they are compressed, and how many are kept.

/// How the pages of a snapshot are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// With zstd.
    Zstd(Level),
}

impl Compression {
    /// The level of zstd; none when the pages are not compressed.
    #[must_use]
    pub fn level(self) -> Option<Level> {
        match self {
            Self::None => None,
            Self::Zstd(level) => Some(level),
        }
    }
}

/// A level of zstd, from [`Level::LOWEST`] to [`Level::HIGHEST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level(i32);

impl Level {
    /// The fastest.
    pub const LOWEST: i32 = 1;

    /// The smallest; what is beyond takes much memory for frames that gain nothing.
    pub const HIGHEST: i32 = 19;

    /// The level with this number; `None` when there is no such level.
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

/// How many are kept. The default keeps the newest good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Keep {
    /// The newest so many; the newest good one is kept even when this is 0.
    pub newest: usize,
    /// For each of the newest so many days (UTC) that have a good snapshot, the last one of the
    /// day.
    pub daily: usize,
    /// The same for weeks that begin on Monday (UTC).
    pub weekly: usize,
    /// For so many days, the last one of each memory that was lost or replaced since.
    pub lost: usize,
}
