//! The client library of dsm, a distributed shared memory. N machines share k bytes of RAM each.
//! Together these are one linear, byte-addressed memory, which programs on many machines read and
//! change.
//!
#![cfg_attr(feature = "mcomp-cfg", doc = "```no_run")]
#![cfg_attr(not(feature = "mcomp-cfg"), doc = "```ignore")]
//! use dsm_client::{Client, Config};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::load(&Config::find(None))?; // /etc/mcomp.cfg, the same on every machine
//! let client = Client::new(&config);
//!
//! client.write(4096, b"hello, memory")?;
//! assert_eq!(client.read(4096, 5)?, b"hello");
//!
//! // Exactly once, also when the connection breaks or the server restarts.
//! let visitors = client.fetch_add(0, 1)? + 1;
//! # Ok(())
//! # }
//! ```
//!
//! - [`Client`] reads, writes, fills, copies, and has atomics on 64-bit words. It reads or changes a
//!   range inside one server, up to [`MAX_ATOMIC`](layout::MAX_ATOMIC) bytes, in one indivisible
//!   step.
//! - [`Pipeline`] submits many requests without waiting for each.
//! - [`Error`] says what went wrong, and answers two questions: [may I retry](Error::is_retryable),
//!   and [may it have taken effect](Error::effect).
//! - `Config` is mcomp.cfg. It and the example above need the feature `mcomp-cfg`, which is on by
//!   default; without it a client is made from a [`Layout`].
//!
//! On the host of a server, a program of root or of a member of group `dsm` works on that server's
//! shared memory itself; see [`LocalAccess`].
//!
//! A call does the work in the thread that makes it, and the library keeps connections for the next
//! calls. It starts threads only to look up host names of the network map: eight at most, each for
//! as long as the system takes. Numeric addresses need none.

// Inside: a call is cut into the requests of one server (`call`). It has one queue if it
// concerns one server (`blocking_call`), else those of a pipeline. A queue for each server is a
// state machine without I/O (`server_queue`, with `receive` and `retry`). It keeps the state of a
// connection (`server_connection`) and of its session (`session`), so that a request whose connection
// breaks is sent again and still takes effect once. A `driver` carries its bytes over a socket
// (`link`), and `pump` waits for the sockets of all queues. The pool keeps connections (`pool`). Or
// `local` carries calls out in the server's shared memory.

mod blocking_call;
mod buffer;
mod call;
mod client;
mod copy;
mod driver;
mod error;
mod link;
mod local;
#[cfg(test)]
mod machine_tests;
mod operation;
mod pipeline;
mod pool;
mod pump;
mod receive;
mod retry;
mod server_connection;
mod server_queue;
mod session;
mod submitted;

pub use client::Client;
#[cfg(feature = "mcomp-cfg")]
pub use dsm_config::Config;
pub use dsm_core::layout::Layout;
pub use dsm_core::protocol::{Code, LoggedOperations, MemoryState, Status};
pub use dsm_core::{Address, Incarnation, LocalAccess, ServerIndex};
pub use error::{Effect, Error, ErrorKind};
pub use local::DataPath;
pub use operation::CompareAndSwap;
pub use pipeline::{Pipeline, Reply};

/// What mcomp.cfg says: the parts of a [`Config`], and why one cannot be used.
#[cfg(feature = "mcomp-cfg")]
pub mod config {
    pub use dsm_config::{ClientSettings, LogSettings, OperationLogMode, Security, ServerSettings};
    pub use dsm_config::{Compression, CompressionLevel, RetentionPolicy, SnapshotSettings};
    pub use dsm_config::{ConfigError, Diagnostic, Place};
    pub use dsm_config::{Endpoint, EndpointError, Host};
    pub use dsm_config::{Limits, OnMemoryLoss, Origin, RecoverySettings, Setting};
}

/// Where an address is: the parts of a [`Layout`], and why one cannot be made.
pub mod layout {
    pub use dsm_core::layout::{Fingerprint, LayoutError, MAX_ATOMIC, OutsideMemory, Piece};
}

/// What a server says of itself: the parts of a [`Status`].
pub mod status {
    pub use dsm_core::protocol::{Connections, Sessions, Traffic};
    pub use dsm_core::protocol::{LatencyBucket, LocalTraffic, OperationLogStatus, Recovery};
}
