//! Snapshot files: what `docs/snapshot-format.md` specifies, written, read, checked, and thrown
//! away when they are old.
//!
//! A [`SnapshotWriter`] makes a file that appears under its name only when it is whole; a
//! [`SnapshotFile`] reads any range of one, and checks it; [`retention`] decides which are kept.
//! With these, an agent beside each dsmd gives its segment to a master, which writes one file, and
//! takes restores.

pub mod agent_protocol;
mod create;
mod directory;
mod error;
mod format;
mod frame;
mod header;
mod index;
mod name;
mod partial;
#[doc(hidden)]
pub mod phase;
mod reader;
mod recover;
mod restore;
pub mod retention;
mod stream;
mod transfer;
mod verify;
mod writer;

pub use agent_protocol::AgentError;
pub use create::{CreateError, Created, Options as CreateOptions, ServerPart, create};
pub use recover::recover;
pub use restore::{
    Interruption, Options as RestoreOptions, Plan, RestoreError, Restored, accept_empty, restore,
};

pub use directory::{
    DirectoryError, Listed, apply_retention, list, list_all, remove_stale_partials,
};
pub use error::{ReadError, WriteError};
pub use format::{DEFAULT_FRAME, FRAME_HEADER, MAX_FRAME, MAX_HOSTNAME, VERSION};
pub use frame::ZEROS;
pub use frame::{Frame, FrameDecoder, FrameEncoder, FrameError, FrameHeader};
pub use header::{Header, HeaderError, HeaderFields, ServerInfo};
pub use index::Extent;
pub use name::FileName;
pub use reader::{Extents, FrameBuffer, SnapshotFile, Source};
pub use stream::each_part;
pub use verify::Summary;
pub use writer::{Destination, SnapshotWriter, Written};
