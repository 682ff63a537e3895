//! Protection against `pthread_cancel(3)`, which programs in other languages may use on threads
//! that call this library.
//!
//! The C library unwinds a cancelled thread from any system call that waits. Most functions on the
//! stack do not expect that: the thread would end with its locks held. So cancellation is disabled
//! while a lock is held and a system call may wait.

unsafe extern "C" {
    /// In every C library for Linux, not in the libc crate.
    fn pthread_setcancelstate(state: libc::c_int, previous: *mut libc::c_int) -> libc::c_int;
}

/// The value of glibc and musl.
const PTHREAD_CANCEL_DISABLE: libc::c_int = 1;

/// The calling thread is not cancelled until this is dropped; a pending request takes effect after
/// that.
pub(crate) struct Uncancelled {
    previous: libc::c_int,
    /// The state belongs to the thread, so the guard must not move to another one.
    _of_thread: std::marker::PhantomData<*const ()>,
}

impl Uncancelled {
    pub(crate) fn begin() -> Self {
        let mut previous = 0;
        // SAFETY: `previous` outlives the call, which changes a flag of the calling thread. The
        // only error is an unknown state.
        unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &raw mut previous) };
        Self {
            previous,
            _of_thread: std::marker::PhantomData,
        }
    }
}

impl Drop for Uncancelled {
    fn drop(&mut self) {
        // SAFETY: the state is one that the thread had; the previous state is not requested.
        unsafe { pthread_setcancelstate(self.previous, std::ptr::null_mut()) };
    }
}

#[cfg(debug_assertions)]
#[cfg(test)]
mod tests {
    use crate::layout::{Layout, PAGE};
    use crate::protocol::Extent;
    use crate::segment::crash::{self, Action, Point};
    use crate::segment::{Segment, Start};
    use std::ops::ControlFlow;
    use std::process::Command;
    use std::time::Duration;

    const K: u64 = 8 * PAGE;

    fn layout(name: &str) -> Layout {
        Layout::new(name, K, vec!["127.0.0.1:1".into()]).unwrap()
    }

    fn extent(pages: std::ops::Range<u64>) -> Extent {
        Extent::new(pages.start * PAGE, (pages.end - pages.start) * PAGE, K).unwrap()
    }

    /// The thread that is cancelled: as in a C program, nothing on its stack catches the unwinding.
    extern "C-unwind" fn fill(segment: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: the pointer is to the segment of the thread that made this one, and joins it.
        let segment = unsafe { &*segment.cast::<Segment>() };
        segment
            .worker()
            .unwrap()
            .fill(extent(0..2), 2, None)
            .unwrap();
        loop {
            // SAFETY: a system call with a number.
            unsafe { libc::sleep(1) };
        }
    }

    /// Not a test by itself: the process in which a thread is cancelled while it holds a page and
    /// waits for another.
    #[test]
    fn cancelled_process() {
        let Ok(name) = std::env::var("CANCELLED") else {
            return;
        };
        let segment = Segment::attach(&layout(&name), 0).unwrap();
        crash::arm(Point::Locked, Action::Pause);
        std::thread::scope(|scope| {
            let holder = scope.spawn(|| {
                segment
                    .worker()
                    .unwrap()
                    .fill(extent(1..2), 1, None)
                    .unwrap();
            });
            while !crash::is_paused() {
                std::thread::yield_now();
            }
            let mut thread = 0;
            // SAFETY: the two function types differ only in what may leave them, and the C
            // library's own unwinding may.
            let start: extern "C" fn(*mut libc::c_void) -> *mut libc::c_void = unsafe {
                std::mem::transmute(
                    fill as extern "C-unwind" fn(*mut libc::c_void) -> *mut libc::c_void,
                )
            };
            // SAFETY: `thread` and `segment` live until it is joined.
            unsafe {
                let of = (&raw const segment).cast_mut().cast();
                assert_eq!(
                    libc::pthread_create(&raw mut thread, std::ptr::null(), start, of),
                    0
                );
                // The exact moment does not matter: the request takes effect in the next call that
                // waits.
                std::thread::sleep(Duration::from_millis(50));
                assert_eq!(libc::pthread_cancel(thread), 0);
                std::thread::sleep(Duration::from_millis(50));
                crash::resume();
                assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
            }
            holder.join().unwrap();
        });
        segment
            .worker()
            .unwrap()
            .fill(extent(0..1), 3, None)
            .unwrap();
        println!("cancelled");
    }

    #[test]
    fn a_cancelled_thread_leaves_no_lock_behind() {
        let name = format!("dsmtest-{}-cancelled", std::process::id());
        let start = &mut |_, _| ControlFlow::Continue(());
        let segment = Segment::serve(&layout(&name), 0, Start::Serve, start)
            .unwrap()
            .segment;
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "sys::cancellation::tests::cancelled_process",
                "--nocapture",
            ])
            .env("CANCELLED", &name)
            .output()
            .unwrap();
        for entry in std::fs::read_dir("/dev/shm").unwrap().flatten() {
            if entry
                .file_name()
                .to_string_lossy()
                .contains(&format!("{name}."))
            {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        assert!(
            output.status.success()
                && String::from_utf8_lossy(&output.stdout).contains("cancelled\n"),
            "{output:?}"
        );
        let mut found = vec![0; 2 * usize::try_from(PAGE).unwrap()];
        let mut worker = segment.worker().unwrap();
        worker.read(extent(0..2), &mut found).unwrap();
        assert_eq!(
            (found[0], found.last()),
            (3, Some(&2)),
            "its change is complete, and later changes succeeded"
        );
        worker.fill(extent(0..2), 4, None).unwrap();
    }
}
