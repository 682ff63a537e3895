//! Wrappers of system calls that no crate wraps safely. The only place with `unsafe` code.
// The functions return the errors of the system calls that they wrap.
#![allow(unsafe_code, clippy::missing_errors_doc)]

// Processes share the words of a segment as atomics, and files and the wire contain the same words.
// With another byte order the code would compile, and be wrong.
#[cfg(not(all(
    target_os = "linux",
    target_pointer_width = "64",
    target_endian = "little",
    target_has_atomic = "64"
)))]
compile_error!(
    "dsm needs Linux on a 64-bit little-endian processor with 64-bit atomics, such as x86_64, \
     aarch64 or riscv64: a process maps the whole memory of a segment, and reads its words as they \
     are stored"
);

pub(crate) mod cancellation;
pub mod clock;
pub mod descriptors;
pub mod file_size;
#[cfg(test)]
pub(crate) mod forked;
pub mod mapping;
pub mod memory_limit;
pub(crate) mod ofd;
pub(crate) mod own_file;
pub mod priority;
pub mod queue;
pub mod region;
pub(crate) mod semaphore;
pub(crate) mod socket;
pub mod terminal;
pub mod writeback;
