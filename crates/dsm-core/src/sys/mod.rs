//! System calls that no crate wraps safely. With `segment/`, the only home of `unsafe`.
// The errors are those of the system calls that the functions wrap.
#![allow(unsafe_code, clippy::missing_errors_doc)]

// The words of a segment are shared by processes, as atomics, and are the numbers of the files and
// of the wire as they lie in memory: another order of bytes would compile, and be wrong.
#[cfg(not(all(
    target_os = "linux",
    target_pointer_width = "64",
    target_endian = "little",
    target_has_atomic = "64"
)))]
compile_error!(
    "dsm needs Linux on a 64-bit little-endian processor with 64-bit atomics, such as x86_64, aarch64 or riscv64: the memory of \
     a segment is mapped whole, and its words are read as they lie there"
);

pub(crate) mod cancellation;
pub mod clock;
pub mod descriptors;
pub mod file_size;
#[cfg(test)]
pub(crate) mod forked;
pub mod incoming;
#[cfg(feature = "service")]
pub mod listening;
pub mod mapping;
pub mod memory_limit;
pub(crate) mod ofd;
pub(crate) mod own_file;
pub mod priority;
pub mod queue;
pub(crate) mod semaphore;
pub mod terminal;
pub mod writeback;
