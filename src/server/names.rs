//! The names of the memory in /dev/shm while it is served: they are looked after, and what is said
//! of them is true.

use super::context::Context;
use crate::logging::Event;
use dsm_core::segment::{Names, Segment};

/// Gives the memory the second names that [`restore_removed`] needs.
pub(super) fn keep(segment: &Segment, index: u32) {
    if let Err(error) = segment.keep_names() {
        log::warn!(
            DSM_SERVER = index;
            "{} gets no second name in /dev/shm: {error}. The memory is served all the same, but cannot be saved if a \
             program removes its name",
            segment.name()
        );
    }
}

/// Gives a removed name back where that is possible, and says what was found when that is new.
pub(super) fn restore_removed(context: &Context) {
    let found = context.segment.look_after_names();
    let before = context.set_names(found);
    let name = context.segment.name();
    match found {
        Names::Whole => {}
        Names::GivenBack => log::warn!(
            MESSAGE_ID = Event::NameRemoved.id(), DSM_SERVER = context.index;
            "{name} was removed from /dev/shm by another program while it is served, and was given its name back: nothing is \
             lost"
        ),
        _ if found == before => {}
        Names::PartsRemoved => log::error!(
            MESSAGE_ID = Event::NameRemoved.id(), DSM_SERVER = context.index;
            "the copy area or a semaphore of {name} was removed from /dev/shm by another program: the memory is kept, but \
             other processes cannot open it, so that snapshots fail and new local programs use TCP. Restart dsmd"
        ),
        Names::Removed => log::error!(
            MESSAGE_ID = Event::NameRemoved.id(), DSM_SERVER = context.index;
            "{name} was removed from /dev/shm by another program: clients reach the memory over TCP, but it ENDS WITH THIS \
             DSMD. Save it before dsmd stops: dsmctl read {} {} > FILE",
            context.base(),
            context.layout.k()
        ),
    }
}

/// Ends the care for the names, and says whether the memory is kept.
pub(super) fn finish(context: &Context) {
    restore_removed(context);
    let name = context.segment.name();
    if context.names() == Names::Removed {
        log::error!(
            MESSAGE_ID = Event::NameRemoved.id(), DSM_SERVER = context.index;
            "stopped; {name} was removed from /dev/shm while it was served, and its memory is gone"
        );
    } else {
        log::info!("stopped; {name} is kept");
    }
    context.segment.release_names();
}
