//! The requests of a pipeline whose outcomes were not collected: the parts of each, and how the
//! outcomes of its parts become one.

use super::call::CallOutput;
use super::driver::QueueDriver;
use super::error::Error;
use std::ops::Range;

/// A request whose outcome was not collected. The oldest call in the queue of each of its servers
/// is a part of the oldest request; except for the parts that were carried out in shared memory,
/// which are in no queue.
#[derive(Debug)]
pub(super) struct SubmittedRequest {
    pub(super) servers: Range<usize>,
    pub(super) reads: bool,
    /// Whether it changes the memory.
    pub(super) mutates: bool,
    /// Outcomes of the parts that were carried out in shared memory, with their servers.
    pub(super) done: Vec<(usize, Result<CallOutput, Error>)>,
}

impl SubmittedRequest {
    /// Whether a part of it, in the driver's queue, has no outcome.
    pub(super) fn is_pending(&self, driver: &QueueDriver<'_>) -> bool {
        let server = driver.server();
        self.servers.contains(&server)
            && !self.done.iter().any(|(done, _)| *done == server)
            && !driver.queue().front_is_finished()
    }
}

/// The outcome of two parts of one request, in the order of their addresses.
#[inline]
pub(super) fn join(
    before: Result<CallOutput, Error>,
    after: Result<CallOutput, Error>,
) -> Result<CallOutput, Error> {
    match (before, after) {
        (Ok(CallOutput::Data(mut data)), Ok(CallOutput::Data(more))) => {
            data.extend_from_slice(&more);
            Ok(CallOutput::Data(data))
        }
        (Ok(_), after) => after,
        (Err(error), Ok(_)) => Err(error),
        (Err(first), Err(second)) => Err(first.or_graver(second)),
    }
}
