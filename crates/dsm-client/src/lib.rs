//! The client library of dsm, a distributed shared memory: N machines share k bytes of RAM each,
//! and together these are one linear, byte-addressed memory that programs on many machines read and
//! change.
//!
//! ```no_run
//! use dsm_client::{Client, Config};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::load(&Config::find(None))?; // /etc/mcomp.cfg, the same on every machine
//! let client = Client::new(&config);
//!
//! client.write(4096, b"hello, memory")?;
//! assert_eq!(client.read(4096, 5)?, b"hello");
//!
//! let visitors = client.fetch_add(0, 1)? + 1; // one more, exactly once, whatever breaks
//! # Ok(())
//! # }
//! ```
//!
//! - [`Client`] reads, writes, fills, copies and does atomics on 64-bit words. A range inside one
//!   server, up to [`MAX_ATOMIC`](layout::MAX_ATOMIC) bytes, is read or changed in one indivisible
//!   step.
//! - [`Pipeline`] submits many requests without waiting for each.
//! - [`Error`] says what went wrong, and answers two questions: [may I retry](Error::is_retryable),
//!   and [may it have taken effect](Error::effect).
//! - [`Config`] is mcomp.cfg, with the feature `mcomp-cfg` (on by default). Without it a client is
//!   made from a [`Layout`].
//!
//! A program in group `dsm` on the host of a server works on that server's shared memory itself;
//! see [`LocalAccess`].
//!
//! No thread of its own: a call drives the sockets it needs (`pump`), over *links* to servers that
//! are kept for the next call (`pool`, `link`), or works on the shared memory of a server on this
//! host (`local`). Each link has a session (`session`), so that a request whose connection breaks
//! is sent again and still takes effect once.

mod buffer;
mod client;
mod connect;
mod copy;
mod error;
mod job;
mod lane;
mod link;
mod local;
mod operation;
mod pipeline;
mod pool;
mod pump;
mod receive;
mod session;
mod trouble;

pub use client::Client;
#[cfg(feature = "mcomp-cfg")]
pub use dsm_config::{self as config, Config};
pub use dsm_core::layout::{self, Layout};
pub use dsm_core::protocol::{Code, LoggedOperations, MemoryState, Status};
pub use dsm_core::{Address, Incarnation, LocalAccess, ServerIndex};
pub use error::{Effect, Error, ErrorKind};
pub use local::DataPath;
pub use operation::CompareAndSwap;
pub use pipeline::{Pipeline, Reply};
