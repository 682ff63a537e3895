//! Snapshots of the memory: the file that `docs/snapshot-format.md` specifies, and the master that
//! creates and restores one with the agents of all servers.
//!
//! A [`SnapshotWriter`] writes a file that gets its name only when it is complete. A
//! [`SnapshotFile`] checks a file and reads any range of it. [`retention`] decides which files are
//! kept. An agent runs on the machine of each dsmd: it sends the segment to a master, which writes
//! one file, and it replaces the segment's bytes in a restore.

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
pub use create::{CreateError, CreateOptions, Created, ServerPart, create};
pub use recover::recover;
pub use restore::{
    Interruption, RestoreError, RestoreOptions, RestorePlan, Restored, accept_empty, restore,
};

pub use directory::{
    DirectoryError, ListedSnapshot, apply_retention, list, list_all, remove_stale_partials,
};
pub use error::{ReadError, WriteError};
pub use format::{DEFAULT_FRAME, FRAME_HEADER, MAX_FRAME, MAX_HOSTNAME, VERSION};
pub use frame::ZERO_PAGE;
pub use frame::{Frame, FrameDecoder, FrameEncoder, FrameError, FrameHeader};
pub use header::{Header, HeaderError, HeaderFields, ServerInfo};
pub use index::FrameExtent;
pub use name::FileName;
pub use reader::{FrameBuffer, FrameExtents, SnapshotFile, SnapshotSource};
pub use stream::for_each_part;
pub use verify::Summary;
pub use writer::{Destination, SnapshotWriter, Written};
