//! The common parts of a distributed shared memory.
//!
//! [`layout`] maps an address to the server that holds it. [`protocol`] is the wire format between
//! clients and servers, and [`net`] carries its bytes. [`segment`] is the memory that one server
//! shares, as an object that several processes use. [`sys`] wraps the system calls under all of it,
//! and is the only place with `unsafe` code.
//!
//! Programs that use the memory link `dsm-client` instead.

mod ids;
pub mod layout;
mod local_access;
pub mod net;
pub mod printable;
pub mod protocol;
pub mod segment;
pub mod sys;

pub use ids::{Address, Incarnation, ServerIndex};
pub use local_access::LocalAccess;
