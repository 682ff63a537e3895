//! The names of the memory in /dev/shm while it is served: dsmd restores a removed name where that
//! is possible, and logs what was found.

use super::context::Context;
use crate::logging::Event;
use dsm_core::segment::{NameCheck, Segment};

/// Gives the memory the second names that [`restore_removed`] needs.
pub(super) fn keep(segment: &Segment, index: u32) {
    if let Err(error) = segment.keep_names() {
        log::warn!(
            DSM_SERVER = index;
            "{} gets no second name in /dev/shm: {error}. The memory is served, but dsmd cannot restore its name if a \
             program removes it",
            segment.name()
        );
    }
}

/// Restores a removed name where that is possible, and logs what was found when it is new.
pub(super) fn restore_removed(context: &Context) {
    let found = context.segment.check_names();
    let before = context.set_names(found);
    let name = context.segment.name();
    match found {
        NameCheck::Intact => {}
        NameCheck::Restored => log::warn!(
            MESSAGE_ID = Event::NameRemoved.id(), DSM_SERVER = context.index;
            "another program removed {name} from /dev/shm while it is served; dsmd has restored the name, and nothing is \
             lost"
        ),
        _ if found == before => {}
        NameCheck::PartsRemoved => log::error!(
            MESSAGE_ID = Event::NameRemoved.id(), DSM_SERVER = context.index;
            "another program removed the copy area or a semaphore of {name} from /dev/shm: the memory is kept, but \
             other processes cannot open it, so snapshots fail and new local programs use TCP. Restart dsmd"
        ),
        NameCheck::Removed => log::error!(
            MESSAGE_ID = Event::NameRemoved.id(), DSM_SERVER = context.index;
            "another program removed {name} from /dev/shm: clients reach the memory over TCP, but it ENDS WITH THIS \
             DSMD. Save it before dsmd stops: dsmctl read {} {} > FILE",
            context.base(),
            context.layout.share_size()
        ),
    }
}

/// Removes the second names, and logs whether the memory is kept.
pub(super) fn finish(context: &Context) {
    restore_removed(context);
    let name = context.segment.name();
    if context.names() == NameCheck::Removed {
        log::error!(
            MESSAGE_ID = Event::NameRemoved.id(), DSM_SERVER = context.index;
            "stopped; {name} was removed from /dev/shm while it was served, so its memory is lost"
        );
    } else {
        log::info!("stopped; {name} is kept");
    }
    context.segment.release_names();
}
