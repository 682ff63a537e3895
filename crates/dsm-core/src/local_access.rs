//! A choice of clients, which mcomp.cfg can make for them.

/// Whether a client reaches servers on its own host through their shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LocalAccess {
    /// Where it may; over TCP where it may not.
    #[default]
    Auto,
    /// It does not.
    Never,
}
