//! The requests of a pipeline whose outcomes were not collected: the parts of each, and how the
//! outcomes of its parts become one.

use super::call::CallOutput;
use super::error::Error;
use super::server_queue::ServerQueue;
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
    /// Whether the queue holds a part of it.
    pub(super) fn concerns(&self, queue: &ServerQueue<'_>) -> bool {
        let server = queue.server();
        self.servers.contains(&server) && !self.done.iter().any(|(done, _)| *done == server)
    }
}

/// The outcome of two parts of one request, in the order of their addresses.
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
