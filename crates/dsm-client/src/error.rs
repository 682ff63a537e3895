//! What a call of the library can fail with. Every error that concerns a server names it by index and address.

use dsm_core::layout::OutsideMemory;
use dsm_core::protocol::Refusal;

/// Why a request was not carried out, or not known to be.
///
/// A request that is longer than [`MAX_ATOMIC`](dsm_core::layout::MAX_ATOMIC), or that spans several servers, is a set of
/// smaller ones. Its error is that of one of them; others may have been carried out, whichever variant it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The range is not inside the memory. Nothing was sent.
    #[error(transparent)]
    OutsideMemory(#[from] OutsideMemory),
    /// An atomic's address is not a multiple of eight. Nothing was sent.
    #[error("address {address} is not a multiple of 8: atomics work on aligned 8-byte words; the one there begins at {}", .address & !7)]
    Unaligned {
        /// The address asked for.
        address: u64,
    },
    /// The network map has no server with this index.
    #[error("there is no server {server}: the network map has {count}, with the indexes 0 to {}", .count - 1)]
    NoSuchServer {
        /// The index asked for.
        server: usize,
        /// Servers in the map.
        count: usize,
    },
    /// The bytes asked for do not fit this process's memory. Nothing was sent.
    #[error("there is no room for {length} bytes in this process: read less at a time")]
    NoRoom {
        /// Bytes asked for.
        length: u64,
    },
    /// The server did not answer before the deadline, or its memory on this host was held by others. The request changed
    /// nothing.
    #[error(
        "server {server} ({address}) is not available: {reason}. Check that dsmd runs there and that the network leads to it"
    )]
    Unavailable {
        /// Index of the server.
        server: usize,
        /// Its address in the network map.
        address: String,
        /// What went wrong last.
        reason: String,
    },
    /// The request was sent and there is no telling any more whether it was carried out: the deadline passed before the
    /// reply came, or the server has forgotten the session. It was carried out once or not at all.
    #[error(
        "server {server} ({address}): it is unknown whether the {operation} took effect: {reason}. Read the memory to find out, before doing it again"
    )]
    OutcomeUnknown {
        /// Index of the server.
        server: usize,
        /// Its address in the network map.
        address: String,
        /// Name of the operation.
        operation: &'static str,
        /// What went wrong last.
        reason: String,
    },
    /// The server's memory is not the one that this client knew: it started again from zero, or from a restore, and with
    /// it went every change made before. Stays until [`Client::accept_memory_loss`](crate::Client::accept_memory_loss).
    #[error(
        "server {server} ({address}) lost its memory since this client first saw it: {message}. To go on with the new memory, start anew or accept the loss"
    )]
    MemoryLost {
        /// Index of the server.
        server: usize,
        /// Its address in the network map.
        address: String,
        /// The incarnation that this client knew.
        known: u64,
        /// What was found instead.
        message: String,
    },
    /// The server has another mcomp.cfg than this client.
    #[error(
        "server {server} ({address}) refuses this client, whose mcomp.cfg is not the same; in what it says, \"ours\" is the server's and \"theirs\" this client's: {message}"
    )]
    LayoutDiffers {
        /// Index of the server.
        server: usize,
        /// Its address in the network map.
        address: String,
        /// The server's text, which names every field that differs.
        message: String,
    },
    /// The server refused the request, which therefore had no effect.
    #[error("server {server} ({address}) refused ({:?}): {refusal}", .refusal.code)]
    Refused {
        /// Index of the server.
        server: usize,
        /// Its address in the network map.
        address: String,
        /// Code and text.
        refusal: Refusal,
    },
    /// What answers does not keep to the protocol. Whether changes that had no reply yet took effect is unknown.
    #[error(
        "server {server} ({address}) does not keep to the dsm protocol: {message}. Check that a dsmd of this release answers there"
    )]
    Protocol {
        /// Index of the server.
        server: usize,
        /// Its address in the network map.
        address: String,
        /// What was found, and what was expected.
        message: String,
    },
}

impl Error {
    /// The index of the server that the error is about, if it is about one.
    #[must_use]
    pub fn server(&self) -> Option<usize> {
        match self {
            Self::OutsideMemory(_) | Self::Unaligned { .. } | Self::NoRoom { .. } => None,
            Self::NoSuchServer { server, .. }
            | Self::Unavailable { server, .. }
            | Self::OutcomeUnknown { server, .. }
            | Self::MemoryLost { server, .. }
            | Self::LayoutDiffers { server, .. }
            | Self::Refused { server, .. }
            | Self::Protocol { server, .. } => Some(*server),
        }
    }

    /// The one of two errors of a request that tells its caller more: that an outcome is unknown must not be hidden by
    /// an error that says that something had no effect.
    pub(super) fn or_graver(self, other: Self) -> Self {
        let unknown = |error: &Self| matches!(error, Self::OutcomeUnknown { .. });
        if unknown(&other) && !unknown(&self) { other } else { self }
    }
}
