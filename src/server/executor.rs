//! What a thread needs to execute requests, whichever connection they come from.

use super::buffer::Buffer;
use super::context::Context;
use super::statistics::Counters;
use dsm_core::segment::Worker;
use std::sync::Arc;

/// The resources of one thread that executes requests.
pub(super) struct Executor {
    pub(super) context: Arc<Context>,
    pub(super) worker: Worker,
    /// Memory that the connection being served borrows for its buffers.
    pub(super) spare_input: Buffer,
    pub(super) spare_output: Buffer,
}

impl Executor {
    pub(super) fn new(context: &Arc<Context>, mut worker: Worker) -> Self {
        // A request that finds the memory frozen is parked: it holds no session and no thread that
        // others share.
        worker.set_waits_for_freezes(false);
        let buffer = || Buffer::spare(Arc::clone(&context.budget));
        Self {
            context: Arc::clone(context),
            worker,
            spare_input: buffer(),
            spare_output: buffer(),
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        self.context.statistics.of(self.worker.index())
    }
}
