//! The scheduling priority of a thread.

/// Sets the nice value of the calling thread, see `setpriority(2)`; on Linux each thread has a
/// separate one. If a sandbox forbids it, the thread keeps its value.
pub fn set_nice(value: libc::c_int) {
    // SAFETY: takes and returns numbers only.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) };
}
