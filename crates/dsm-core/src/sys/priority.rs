//! Which threads the scheduler prefers.

/// Makes the calling thread as much nicer than normal, see `setpriority(2)`; on Linux a nice value
/// is a thread's own. Where that is forbidden, by a sandbox perhaps, the thread stays as it is.
pub fn set_nice(value: libc::c_int) {
    // SAFETY: takes and returns numbers only.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) };
}
