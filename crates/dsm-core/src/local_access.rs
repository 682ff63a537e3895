//! Whether clients use shared memory; a setting of mcomp.cfg.

/// Whether a client uses the shared memory of servers on its own host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LocalAccess {
    /// It uses the shared memory where it can, and TCP elsewhere. It can where all of this holds:
    ///
    /// - The process runs as root, or its user is a member of group `dsm`.
    /// - dsmd has the same mcomp.cfg and keeps no operation log, and its memory is not closed for a
    ///   restore.
    /// - The segment has room: for 60 processes that use it as clients, and for 48 of their threads
    ///   at a time. Another thread goes by TCP.
    /// - dsmd runs, or ended less than 30 s ago.
    /// - The process is not a child, by `fork(2)`, of the one that made the client.
    #[default]
    Auto,
    /// It uses TCP everywhere.
    Never,
}
