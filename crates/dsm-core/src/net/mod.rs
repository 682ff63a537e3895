//! The transport: every byte to and from a peer passes here, of clients, dsmd, agents and masters.
//!
//! A [`Stream`] is a connection; it is made by [`connect`], or, without blocking, by
//! [`begin_connect`], or it is accepted by [`Listeners`]. Names are looked up by [`resolve`] in
//! threads of this module, so that a call ends by its deadline although the resolver does not
//! answer. Sockets of the journal, of syslog and of the service manager are no peers and not here.

mod connect;
#[cfg(feature = "service")]
mod listen;
mod look_up;
mod name_table;
mod resolve;
mod shared_look_up;
mod stream;

pub use connect::{begin_connect, connect, finish_connect};
#[cfg(feature = "service")]
pub use listen::{Bound, Listeners, bind, hint, inherited, listen};
pub use nix::sys::socket::MsgFlags;
pub use resolve::{LOOK_UP_TIMEOUT, Resolution, resolve};
pub use shared_look_up::LookUp;
pub use stream::{KeepAliveTimes, PlainSocket, Stream};
