//! Whether clients use shared memory; a setting of mcomp.cfg.

/// Whether a client uses the shared memory of servers on its host instead of TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LocalAccess {
    /// It uses shared memory where the server permits it, and TCP elsewhere.
    #[default]
    Auto,
    /// It always uses TCP.
    Never,
}
