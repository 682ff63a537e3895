//! What every part of a distributed shared memory has in common.
//!
//! [`layout`] says which server holds an address. [`protocol`] is what clients and servers say to
//! each other. [`segment`] is the memory that one server shares, as an object that several
//! processes use. [`sys`] wraps the system calls under all of it, and is the only place with code
//! that the compiler cannot check.
//!
//! Programs that use the memory link `dsm-client` instead.

mod ids;
pub mod layout;
mod local_access;
pub mod printable;
pub mod protocol;
pub mod segment;
pub mod sys;

pub use ids::{Address, Incarnation, ServerIndex};
pub use local_access::LocalAccess;
